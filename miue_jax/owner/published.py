"""Finds the originals of a published folder, for its owner to test the protection again."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Generator

import numpy as np

from miue_jax.machine import files, progress, reading
from miue_jax.machine.terminal import counted, say
from miue_jax.owner import estimate, load, page, pipelines, private, proof, unprotected
from miue_jax.owner.choose import LEAST, Choice
from miue_jax.owner.page import Folders
from miue_jax.owner.private import Private
from miue_jax.owner.unprotected import Unprotected
from miue_jax.pictures import decode
from miue_jax.pictures.key import Entry, Key, digest
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Holds the published files whose originals are still there.

  Attributes:
    folders: Both folders, and the entries of the key; the published files of an archive are in the
      private folder.
    labels: Classes of the entries, `[N]`.
    held_out: Mask of the pictures that victims are tested on, bool `[N]`.
    complete: Whether these are all pictures of the key, and the originals those it knows.
    unprotected: Published pictures that are not protected, and not among these.
    choice: The choice with which they were protected.
    store: The private folder.
  """

  folders: Folders
  labels: np.ndarray
  held_out: np.ndarray
  complete: bool
  unprotected: Unprotected
  choice: Choice
  store: Private

  @property
  def classes(self) -> int:
    """Returns the number of classes."""
    return int(self.labels.max()) + 1

  def sets(self, pipeline: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns originals and published files as a pipeline loads them."""
    there, seen = self.folders, self.choice.seen
    originals, published = zip(*((e.name, e.published) for e in there.entries), strict=True)
    return (
      pipelines.loaded(there.photos, originals, pipeline, seen, "originals"),
      pipelines.loaded(there.out, published, pipeline, seen, "published"),
    )


@contextlib.contextmanager
def opened(
  out: pathlib.Path,
  key: pathlib.Path | None,
  passphrase: str | None,
  photos: pathlib.Path | None,
) -> Generator[Pairs]:
  """Opens a published folder with its key, finds the originals, and names what was altered.

  Args:
    out: Folder of published pictures.
    key: Path of the key; None is that of the key next to `out`.
    passphrase: Passphrase of the key.
    photos: Folder of the originals; None is the folder from which they were protected.

  Raises:
    UserError: There is no key, a file of the private folder is damaged, or too few originals are
      there.
  """
  path = private.key_of(out, key)
  if not files.is_folder(private.path_of(out)):
    raise UserError(f"There is no {private.path_of(out)}: put it back, next to {out}.")
  if not files.is_folder(private.files_of(out)):
    raise UserError(f"There is no folder {out}: put the published pictures back.")
  with private.opened(out) as store, Key.open(path, passphrase) as secret:
    page.check(store)
    private.check_key(secret, out)
    choice = Choice.restored(secret.settings.get("choice", {}))
    place = private.files_of(out)
    rows = reading.entries(store.rows) if files.exists(store.rows) else []
    # The images of an archive are in the private folder, wherever that is now.
    place_then = store.rows / rows[0].name if rows else secret.settings.get("photos", "")
    folder = pathlib.Path(photos or str(place_then))
    entries = [
      entry
      for entry in secret.entries
      if files.is_file(folder / entry.name) and files.is_file(place / entry.published)
    ]
    # Threads append entries in any order; this is that of the proof, which held out the same.
    entries.sort(key=lambda entry: (entry.class_name, entry.name))
    bad = unprotected.tell(place, secret, {entry.name for entry in entries})
    lost = len(secret.entries) - len(entries)
    if lost:
      say(
        "Left out, because the original or the published file is missing: "
        f"{lost} of {len(secret.entries)}."
      )
    altered = set(bad.altered)
    entries = [entry for entry in entries if entry not in altered]
    names = [entry.class_name for entry in entries]
    classes = sorted(set(names))
    labels = np.array([classes.index(name) for name in names], np.int32)
    if len(classes) < 2 or np.bincount(labels).min() < LEAST:
      raise UserError(
        f"There are too few originals in {folder} to measure anything: at least {LEAST} of each of "
        "at least 2 classes are needed. If they are elsewhere, name that folder with --photos."
      )
    originals = progress.each_shown(lambda entry: _known(folder, entry), entries, "checking")
    changed = [entry.name for entry, same in zip(entries, originals, strict=True) if not same]
    if changed:
      say(
        f"Changed since they were protected: {counted(len(changed), 'picture')} in {folder} "
        f"({load.named(changed)}). Put back the originals, or name their folder with --photos."
      )
    estimate.start(choice, len(labels))
    yield Pairs(
      Folders(folder, place, entries),
      labels,
      proof.held_out(labels, choice.seed),
      not (lost or bad.altered or changed),
      bad,
      choice,
      store,
    )


def _known(folder: pathlib.Path, entry: Entry) -> bool:
  """Returns whether a file has the pixels of an original."""
  path = folder / entry.name
  with decode.room(path):
    return digest(decode.read(path, entry.name).channels) == entry.source
