"""Workarounds for XLA's CPU backend: memory that is not given back, and fast convolutions."""

import jax


def in_use() -> bool:
  """Returns whether steps run on CPUs: on the mesh that is set, else on jax's default backend.

  Unlike `jax.sharding.get_mesh` this works while a step is traced.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device.platform if device else jax.default_backend()) == "cpu"
