"""Transformations of images inside a step, for attacks and for victims."""
