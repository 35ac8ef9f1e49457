"""Data: sources of images and the augmentations that run on the device."""
