"""Workarounds for XLA's CPU backend: memory that is not given back, and fast convolutions."""

from typing import Any

import jax


def flops(function: Any, *arguments: Any) -> float:
  """Returns the FLOPs of a jitted function on one device, without compiling it.

  Args:
    function: What `jax.jit` returned.
    *arguments: Its arguments, or their shapes and types.
  """
  # With this precision a CPU convolves as all other chips do, and XLA counts the FLOPs.
  with jax.default_matmul_precision("highest"):
    return float(function.lower(*arguments).cost_analysis()["flops"])


def in_use() -> bool:
  """Returns whether steps run on CPUs: on the mesh that is set, else on jax's default backend.

  Unlike `jax.sharding.get_mesh` this works while a step is traced.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return (device.platform if device else jax.default_backend()) == "cpu"
