"""`python -m autoshrink` is the command `autoshrink`."""

from autoshrink.cli import main

main()
