"""Chooses the devices of a program and makes the mesh over them."""

import contextlib
import os

import jax

from miue_jax.machine import processes
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError

AXIS = "data"


def start(devices: int, batch_sizes: tuple[int, ...]) -> jax.sharding.Mesh:
  """Chooses devices, makes the `data` mesh over them and sets it for the program.

  Convolutions of one CPU device use little more than one core, so on a CPU every core becomes a
  device. Must run before any other use of jax but `processes.together`.

  Args:
    devices: how many, over all processes; 0 takes all accelerators, or on a CPU as many cores (at
      most 8 in a process) as divide every batch.
    batch_sizes: every global batch must be divisible by the number of devices.

  Raises:
    UserError: more devices asked than there are, devices that do not spread over the processes, or
      a batch that they do not divide.
  """
  count = processes.count()
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
  fitting = (n for n in range(min(cores, 8), 0, -1) if _divides(n * count, batch_sizes))
  wanted = devices // count or next(fitting, 1)
  if "JAX_NUM_CPU_DEVICES" not in os.environ:
    # Refused once a backend runs (a second call in one process); the existing devices then count.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", min(wanted, cores))
  allocator.keep(jax.config.jax_num_cpu_devices)
  available = jax.devices()
  on_cpu = available[0].platform == "cpu"
  if devices > len(available):
    virtual = ", or set JAX_NUM_CPU_DEVICES to have more of them than cores" if on_cpu else ""
    raise UserError(
      f"devices={devices} but {_here(count)} {len(available)} ({available[0].platform}); ask for "
      f"at most {len(available)}, or 0 for all{virtual}."
    )
  used = devices or (min(wanted, len(available)) if on_cpu and count == 1 else len(available))
  if count > 1 and (used < len(available) or len(available) != count * jax.local_device_count()):
    raise UserError(
      f"devices={devices} but {_here(count)} {len(available)}, {jax.local_device_count()} of them "
      "in this one; each must have as many as the others, and all are used: set devices=0."
    )
  if not _divides(used, batch_sizes):
    raise UserError(
      f"The batch sizes {sorted(set(batch_sizes))} must be divisible by the {used} devices; "
      "change method.batch_size, source.batch_size or victim_fit.batch_size, or set devices."
    )
  mesh = jax.make_mesh(
    (used,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=available[:used]
  )
  jax.set_mesh(mesh)
  return mesh


def _here(count: int) -> str:
  return "this machine offers" if count == 1 else f"these {count} processes offer"


def _divides(devices: int, batch_sizes: tuple[int, ...]) -> bool:
  return all(size % devices == 0 for size in batch_sizes)
