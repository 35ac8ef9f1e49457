"""Devices, random keys, loops, signals, processes, checkpoints, progress and files."""
