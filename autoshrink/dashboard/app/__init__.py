"""The dashboard: a local web application (Dash) over the records of all studies. It reads records, and nothing else."""
