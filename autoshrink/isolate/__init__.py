"""The child process in which artifacts are compiled, audited, measured and evaluated, with no torch beside them."""
