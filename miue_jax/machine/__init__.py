"""The machine: devices, random keys, loops, signals, processes, checkpoints, progress, files."""
