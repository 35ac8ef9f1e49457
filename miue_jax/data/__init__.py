"""Provides sources of images, and datasets whose images are in memory or in files."""
