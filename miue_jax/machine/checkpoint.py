"""Checkpoints: the only file that imports Orbax."""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from miue_jax.machine import processes
from miue_jax.settings.errors import UserError


class Checkpoints:
  """States of one long run, by position (steps done), the newest two kept.

  Orbax writes into a temporary directory and renames it, so that a kill leaves either the old or
  the new state, never half of one. Every process writes and reads its own shards, in a directory
  that all of them see, and all must make the same calls.
  """

  def __init__(self, directory: pathlib.Path):
    self._directory = directory

  def save(self, position: int, tree: Any) -> None:
    """Saves a pytree of jax arrays; a position that is saved already is left alone.

    Raises:
      UserError: the disk is full or the directory cannot be written.
    """
    try:
      with self._open() as checkpointer:
        if position not in {saved.step for saved in checkpointer.checkpoints}:
          checkpointer.save(position, tree)
    except (OSError, ValueError) as error:
      raise UserError(
        f"Cannot save a checkpoint in {self._directory} ({_first_line(error)}): free some space or "
        "choose another --workdir."
      ) from error

  def restore(self, like: Any) -> tuple[int, Any] | None:
    """Returns the newest `(position, tree)`, or None where nothing is saved.

    Args:
      like: a pytree of jax arrays with the shapes, dtypes and shardings to restore to.

    Raises:
      UserError: the checkpoint is damaged or belongs to another program.
    """
    if not processes.from_lead(self._directory.exists):
      return None
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    try:
      with self._open() as checkpointer:
        if checkpointer.latest is None:
          return None
        position = checkpointer.latest.step
        with _quiet_readers():
          return position, checkpointer.load(position, abstract)
    except Exception as error:
      # Orbax reports damage by many exception types; whatever it is, the file cannot be used.
      raise UserError(
        f"The checkpoint in {self._directory} is damaged ({_first_line(error)}): delete that "
        "folder to start this stage again."
      ) from error

  def delete(self) -> None:
    """Removes every state: the run is finished and its result stored elsewhere."""
    if processes.is_lead():
      shutil.rmtree(self._directory, ignore_errors=True)

  @contextlib.contextmanager
  def _open(self) -> Iterator[ocp.training.Checkpointer]:
    # States are noise, which compression makes a fifth smaller for ten times the time, and a copy
    # of all that is being written.
    context = ocp.Context()
    context.array.saving.use_compression = False
    checkpointer = ocp.training.Checkpointer(
      self._directory.absolute(),
      preservation_policy=ocp.training.preservation_policies.LatestN(2),
      cleanup_tmp_directories=True,
    )
    with context, checkpointer:
      yield checkpointer


@contextlib.contextmanager
def _quiet_readers() -> Iterator[None]:
  """Silences what Orbax's reader threads say about their closed event loop when a read fails.

  They may say it later than the failure, so the silence ends only where the block succeeds.
  """
  spoken = sys.unraisablehook

  def hook(unraisable):
    if "Event loop is closed" not in str(unraisable.exc_value):
      spoken(unraisable)

  sys.unraisablehook = hook
  yield
  sys.unraisablehook = spoken


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
