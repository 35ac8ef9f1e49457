"""Provides training: the step, the loop, predictions, the layout of examples on devices."""
