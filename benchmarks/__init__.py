"""Provides the stopwatch programs: speed, the PyTorch peer, scaling, and known information."""
