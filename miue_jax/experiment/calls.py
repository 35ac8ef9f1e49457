"""Provides what the calls of the library share: devices, progress bars, interruptions."""

import contextlib
import functools
import signal
import sys
from collections.abc import Generator

import jax

from miue_jax.machine import meshes, processes
from miue_jax.machine.progress import Progress, Reporter
from miue_jax.settings.errors import UserError


@contextlib.contextmanager
def on_devices(*batch_sizes: int) -> Generator[None]:
  """Runs the block on a mesh that divides all batches; the caller's mesh is set again afterwards.

  A mesh whose only axis is "data" is used if it is set, otherwise as many devices as divide the
  batches. A signal that stopped the block is raised again for the caller's handler.

  Raises:
    UserError: The devices of the caller's mesh do not divide a batch.
    KeyboardInterrupt: The call was interrupted.
  """
  with jax.set_mesh(_mesh(batch_sizes)):
    try:
      yield
    except processes.Interrupted as stop:
      signal.raise_signal(stop.signum)  # to the caller's handler, which is installed again
      raise


def device_count() -> int:
  """Returns the number of devices that a call may use."""
  current = jax.sharding.get_mesh()
  return current.size if current.axis_names == (meshes.AXIS,) else jax.device_count()


def shows_bar(progress: bool | None) -> bool:
  """Returns whether to show progress bars; None shows them in a terminal or a notebook."""
  return sys.stderr.isatty() or "ipykernel" in sys.modules if progress is None else progress


def reporter() -> Reporter:
  """Returns the reporter of a call that writes nothing to the disk."""
  return functools.partial(Progress, None, bar=shows_bar(None))


def _mesh(batch_sizes: tuple[int, ...]) -> jax.sharding.Mesh:
  """Returns the mesh of a call; its axis is "data", of type `Auto` as the steps require."""
  current = jax.sharding.get_mesh()
  if current.axis_names != (meshes.AXIS,):
    counts = range(1, jax.device_count() + 1)
    return meshes.make(max(n for n in counts if not any(size % n for size in batch_sizes)), ())
  for size in batch_sizes:
    if size % current.size:
      raise UserError(
        f"batch_size={size} must be divisible by the {current.size} devices of the mesh."
      )
  automatic = (jax.sharding.AxisType.Auto,)
  return jax.sharding.Mesh(current.devices, (meshes.AXIS,), axis_types=automatic)
