"""Saves and restores the states of long runs. No other file imports Orbax."""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Generator
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from miue_jax.machine import files, processes
from miue_jax.settings.errors import UserError, first_line


class Checkpoints:
  """Stores the two newest states of a long run, each with its position (number of steps done).

  Orbax writes into a temporary directory and renames it. If the program is killed,
  either the old or the new state therefore remains, never an incomplete one. Every process writes
  and reads its own shards, in a directory that all processes share, and all processes must make the
  same calls.
  """

  def __init__(self, directory: pathlib.Path | None):
    """Takes the folder of the states; None keeps no states."""
    self._directory = directory

  def save(self, position: int, tree: Any) -> None:
    """Saves a pytree of jax arrays, unless this position is saved already.

    Raises:
      UserError: The disk is full or the directory cannot be written.
    """
    if self._directory is None:
      return
    try:
      with _opened(self._directory) as checkpointer:
        if position not in {saved.step for saved in checkpointer.checkpoints}:
          checkpointer.save(position, tree)
    except (OSError, ValueError) as error:
      raise UserError(
        f"Cannot save a checkpoint in {self._directory} ({first_line(error)}): free some space or "
        "choose another --workdir."
      ) from error

  def restore(self, like: Any) -> tuple[int, Any] | None:
    """Returns the newest `(position, tree)`, or None if nothing is saved.

    Args:
      like: Pytree of jax arrays with the shapes, dtypes and shardings to restore to.

    Raises:
      UserError: The checkpoint is damaged or belongs to another program.
    """
    directory = self._directory
    if directory is None or not processes.from_lead(lambda: files.exists(directory)):
      return None
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    try:
      with _opened(directory) as checkpointer:
        if checkpointer.latest is None:
          return None
        position = checkpointer.latest.step
        with _quiet_readers():
          return position, checkpointer.load(position, abstract)
    except Exception as error:
      # Orbax reports damage by many exception types. None of these checkpoints can be used.
      raise UserError(
        f"The checkpoint in {directory} is damaged ({first_line(error)}): delete that "
        "folder to start this stage again."
      ) from error

  def delete(self) -> None:
    """Removes all states, once the result of the run is stored elsewhere."""
    if self._directory is not None and processes.is_lead():
      shutil.rmtree(self._directory, ignore_errors=True)


@contextlib.contextmanager
def _opened(directory: pathlib.Path) -> Generator[ocp.training.Checkpointer]:
  # States look like noise. Compression makes them a fifth smaller, takes ten times as long and
  # needs memory for a copy of everything that is being written.
  context = ocp.Context()
  context.array.saving.use_compression = False
  checkpointer = ocp.training.Checkpointer(
    str(directory.absolute()),
    # pyrefly: ignore[bad-argument-type]
    preservation_policy=ocp.training.preservation_policies.LatestN(2),
    cleanup_tmp_directories=True,
  )
  with context, checkpointer:
    yield checkpointer


@contextlib.contextmanager
def _quiet_readers() -> Generator[None]:
  """Hides the messages of Orbax's reader threads about their closed event loop after a failed read.

  The messages can arrive some time after the failure: if the block fails, they stay hidden; if it
  succeeds, later messages are shown as usual.
  """
  previous = sys.unraisablehook

  def hook(unraisable):
    if "Event loop is closed" not in str(unraisable.exc_value):
      previous(unraisable)

  sys.unraisablehook = hook
  yield
  sys.unraisablehook = previous
