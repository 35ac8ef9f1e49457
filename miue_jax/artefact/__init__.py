"""Provides poisons on the disk, exported images, external poisons and image quality."""
