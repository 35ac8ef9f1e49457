"""Provides devices, random keys, loops, signals, processes, checkpoints, progress and files."""
