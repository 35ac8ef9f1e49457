"""Provides devices, random keys, loops, signals, processes, checkpoints, progress and files."""

import logging

# Without a handler, Python would print the warnings of this package. All modules that log import
# this one.
logging.getLogger("miue_jax").addHandler(logging.NullHandler())
