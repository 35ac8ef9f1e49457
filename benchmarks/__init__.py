"""Benchmarks: speed, PyTorch peer, scaling, estimators on tasks of known information."""
