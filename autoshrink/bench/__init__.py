"""Benchmarks of autoshrink itself; each is a command that writes what the documentation shows."""
