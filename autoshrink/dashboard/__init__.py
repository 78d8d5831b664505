"""What a study looks like: terminal tables, data frames, figures, and the HTML report. Reads records only."""
