"""The search: a space and a target become suggestions, suggestions become trials, trials become a front."""
