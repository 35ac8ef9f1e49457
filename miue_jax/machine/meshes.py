"""Chooses devices and makes a mesh over them."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

from miue_jax.machine import processes, threads
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError, first_line

AXIS = "data"


def start(devices: int, batch_sizes: tuple[int, ...], offered: int = 0) -> jax.sharding.Mesh:
  """Makes a mesh and sets it for the whole program.

  A convolution on one CPU device uses little more than one core. jax is therefore asked to make one
  CPU device per core, which must happen before any other use of jax except `processes.together`.
  The other arguments, return value and errors are those of `make`.

  Args:
    devices: Number of devices of the mesh.
    batch_sizes: Global batch sizes.
    offered: Least number of CPU devices that jax makes, for meshes on which nothing runs.
  """
  config: Any = jax.config
  wanted = min(_wanted_on_cpu(devices, batch_sizes), threads.cores())
  if "JAX_NUM_CPU_DEVICES" in os.environ:
    wanted = config.jax_num_cpu_devices
  # jax refuses once a backend runs (a second call in one process). It then keeps its devices.
  with contextlib.suppress(RuntimeError):
    config.update("jax_num_cpu_devices", max(wanted, offered))
  allocator.keep(config.jax_num_cpu_devices)
  mesh = make(devices, batch_sizes)
  jax.set_mesh(mesh)
  return mesh


def make(devices: int, batch_sizes: tuple[int, ...]) -> jax.sharding.Mesh:
  """Makes a mesh with the axis `data`; changes neither the current mesh nor jax's configuration.

  Args:
    devices: Number of devices over all processes. 0 takes all accelerators; on CPUs it takes as
      many cores (at most 8 per process) as divide every batch.
    batch_sizes: Global batch sizes, each a multiple of the number of devices.

  Raises:
    UserError: There are fewer devices than asked for, they cannot be spread over the processes, or
      they do not divide a batch.
  """
  count, available = processes.count(), started()
  on_cpu = available[0].platform == "cpu"
  if devices > len(available):
    virtual = ", or set JAX_NUM_CPU_DEVICES to have more of them than cores" if on_cpu else ""
    raise UserError(
      f"devices={devices} but {_here(count)} {len(available)} ({available[0].platform}); ask for "
      f"at most {len(available)}, or 0 for all{virtual}."
    )
  used = devices or len(available)
  if not devices and on_cpu and count == 1:
    used = min(_wanted_on_cpu(devices, batch_sizes), len(available))
  if count > 1 and (used < len(available) or len(available) != count * jax.local_device_count()):
    raise UserError(
      f"devices={devices} but {_here(count)} {len(available)}, {jax.local_device_count()} of them "
      "in this one; all processes need equally many devices, and all are used: set devices=0."
    )
  if not _divides(used, batch_sizes):
    raise UserError(
      f"The batch sizes {sorted(set(batch_sizes))} must be divisible by the {used} devices; "
      "change method.batch_size, source.batch_size or victim_fit.batch_size, or set devices."
    )
  return over(available[:used])


def over(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
  """Returns a mesh with the axis `data` over these devices."""
  automatic = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=automatic, devices=devices)


def started() -> list[jax.Device]:
  """Returns the devices of all processes; the first call starts jax's backend.

  Raises:
    UserError: The backend cannot be started.
  """
  _check_flags(os.environ.get("XLA_FLAGS", ""))
  try:
    return jax.devices()
  # jax reports a missing plugin by errors of several types, one of them an assertion.
  except Exception as error:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    advice = f"correct or unset JAX_PLATFORMS ({platforms})" if platforms else "check the driver"
    raise UserError(
      f"JAX cannot initialise its devices ({first_line(error)}): {advice}."
    ) from error


@functools.cache
def _check_flags(flags: str) -> None:
  """Checks the flags of XLA in another process, because XLA ends a process with unknown flags."""
  if not flags:
    return
  command = [sys.executable, "-c", "import jax; jax.devices()"]
  variables = os.environ | {"JAX_PLATFORMS": "cpu"}
  ended = subprocess.run(command, env=variables, capture_output=True, text=True)
  if ended.returncode:
    raise UserError(f"XLA cannot start with XLA_FLAGS ({flags}): correct or unset them.")


def _wanted_on_cpu(devices: int, batch_sizes: tuple[int, ...]) -> int:
  """Returns the number of CPU devices for this process."""
  count = processes.count()
  fitting = (n for n in range(min(threads.cores(), 8), 0, -1) if _divides(n * count, batch_sizes))
  return devices // count or next(fitting, 1)


def _here(count: int) -> str:
  return "this machine offers" if count == 1 else f"these {count} processes offer"


def _divides(devices: int, batch_sizes: tuple[int, ...]) -> bool:
  return all(size % devices == 0 for size in batch_sizes)
