"""Experiments by name: one file each, with what it reproduces, what it reached, how long it took and the command."""
