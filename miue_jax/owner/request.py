"""Holds what an owner asks for, and checks the folders."""

import contextlib
import dataclasses
import pathlib

from miue_jax.machine import files, reading
from miue_jax.owner import private
from miue_jax.pictures.key import default_path
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Request:
  """Holds the arguments of `protect`.

  Attributes:
    photos: Folder of the pictures.
    out: Folder of the published pictures.
    strength: One of `choose.STRENGTHS`; None is that of the key, or the default.
    recompressed: Whether a site compresses the published pictures again as JPEG.
    seconds: Seconds that making and proving may take; None sets no limit.
    format: Format of the published files.
    keep_metadata: Whether to keep EXIF values other than author and copyright.
    drop_author: Whether to drop author and copyright.
    strict: Whether a file that cannot be read is an error.
    labels: CSV file of classes; None takes folders.
    key: Path of the key; None is that of the key next to `out`.
    passphrase: Encrypts the key.
    seed: Seed of every random draw; None draws one.
    clusters: Number of groups of pictures that have no labels; 0 if they have classes.
    shareable: Whether to write a page without pictures and names as well.
  """

  photos: pathlib.Path
  out: pathlib.Path
  strength: str | None = None
  seconds: float | None = None
  format: str = "png"
  keep_metadata: bool = False
  drop_author: bool = False
  strict: bool = False
  labels: pathlib.Path | None = None
  key: pathlib.Path | None = None
  passphrase: str | None = None
  seed: int | None = None
  shareable: bool = False
  clusters: int = 0
  recompressed: bool = False

  @property
  def key_path(self) -> pathlib.Path:
    """Returns the path of the key."""
    return self.key or default_path(self.out)

  @property
  def files(self) -> pathlib.Path:
    """Returns the folder of the published files, from which an archive is packed."""
    return private.files_of(self.out)


def check_places(request: Request) -> None:
  """Checks that pictures, published files and the key are in separate places.

  Raises:
    UserError: The folders of pictures and of published files contain each other, the pictures were
      published before, or the key or the private folder would be published.
  """
  out, photos = files.resolved(request.out), files.resolved(request.photos)
  mixed = ""
  if out == photos:
    mixed = f"{request.out} is the folder of your pictures"
  elif out.is_relative_to(photos):
    mixed = f"{request.out} lies in {request.photos}"
  elif photos.is_relative_to(out):
    mixed = f"{request.photos} lies in {request.out}"
  if mixed:
    raise UserError(
      f"{mixed}: choose a folder outside of your pictures for OUT, because it is published."
    )
  inside: list[pathlib.Path] = []
  with contextlib.suppress(UserError):  # an archive has none, and a survey says what is wrong
    inside = private.published_in(photos, deep=False)
  for folder in (photos, *photos.parents, *inside):
    if folder.name and files.exists(private.Private(private.path_of(folder)).noted):
      raise UserError(
        f"{request.photos} holds pictures that were published by `protect`: name the folder of the "
        "originals, because a second perturbation can be averaged with the first one."
      )
  if files.resolved(request.key_path).is_relative_to(out):
    raise UserError(
      f"{request.key_path} would be published: choose a key outside of {request.out}."
    )
  for folder in out.parents:
    if folder.name and files.is_folder(private.path_of(folder)):
      raise UserError(f"{request.out} lies in {folder}, which is published: choose another folder.")


def check_new(request: Request) -> None:
  """Checks that no other protection is where a new one would be.

  Raises:
    UserError: `out` is a file or not empty, or its private folder is left from another protection.
  """
  if files.exists(request.out) and not files.is_folder(request.out):
    raise UserError(f"{request.out} is not a folder: name one for the published pictures.")
  if files.exists(request.out) and reading.entries(request.out):
    raise UserError(
      f"{request.out} is not empty, and there is no key at {request.key_path}: give its key with "
      "--key, or choose a new folder if the key is lost."
    )
  store = private.Private(private.path_of(request.out))
  left = store.checkpoints, store.rounds, store.source, store.centres
  if any(map(files.exists, left)):
    raise UserError(
      f"{store.root} is left from another protection: delete it, or choose another folder."
    )
