"""Test-wide settings: several CPU devices, strict ranks, no device needed."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
