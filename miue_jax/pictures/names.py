"""Checks, compares and shortens the names of pictures, which are not trusted."""

import collections
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from miue_jax.settings.errors import UserError

_SUFFIXES = (".png", ".webp", ".jpg")  # of published files
_NAME_BYTES = 200  # of a published name: a component of a path has at most 255, with a suffix
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029]")


def is_plain(path: str) -> bool:
  """Returns whether a path stays inside its folder and names nothing hidden."""
  parts = path.split("/")
  try:
    longest = max(len(os.fsencode(part)) for part in parts)
  except UnicodeEncodeError:
    return False
  return longest <= 255 and not any(
    not part or part.startswith(".") or _CONTROL.search(part) for part in parts
  )


def same(name: str) -> str:
  """Returns the same text for names that some file systems do not distinguish.

  Such names differ in capitals or in their Unicode normalisation.
  """
  return unicodedata.normalize("NFC", name).casefold()


def next_to(folder: str | os.PathLike, suffix: str) -> pathlib.Path:
  """Returns the path next to a folder with its name and a suffix.

  Raises:
    UserError: The folder is the root of the file system.
  """
  path = pathlib.Path(os.path.abspath(folder))
  if not path.name:
    raise UserError(f"{path} is the whole file system: name a folder.")
  return path.with_name(path.name + suffix)


def distinct_names(names: Sequence[str]) -> list[str]:
  """Removes the suffixes of relative paths, unless two files would then share a name.

  `a.png` becomes `"a"`, but `"a_png"` if there is also `a.jpg`, or a folder `a.png` with files.
  """
  parts = [name.rpartition(".") for name in names]
  count = collections.Counter(same(stem) for stem, _, _ in parts)
  folders = without_suffix(folders_of(names))
  taken = {stem for stem in count if count[stem] == 1} | folders
  result = []
  for stem, _, suffix in parts:
    name = stem
    if count[same(stem)] > 1 or same(stem) in folders:
      name = f"{stem}_{suffix}"
      while same(name) in taken:
        name += "_"
      taken.add(same(name))
    result.append(name)
  return result


def folders_of(paths: Iterable[str]) -> set[str]:
  """Returns the folders that hold some relative paths, in the form of `same`."""
  found: set[str] = set()
  for folder in {same(path).rpartition("/")[0] for path in paths}:
    while folder and folder not in found:
      found.add(folder)
      folder = folder.rpartition("/")[0]
  return found


def without_suffix(folders: Iterable[str]) -> set[str]:
  """Returns the names that a file cannot have, because its suffix makes them one of the folders."""
  parts = (os.path.splitext(folder) for folder in folders)
  return {stem for stem, suffix in parts if suffix in _SUFFIXES}


def beside(path: str, files: Collection[str]) -> str:
  """Returns a path with underscores after those of its folders that have the name of a file.

  `files` are in the form of `same`.
  """
  *folders, name = path.split("/")
  place = ""
  for folder in folders:
    place += folder
    while same(place) in files:
      place += "_"
    place += "/"
  return place + name


def published_names(paths: Sequence[str]) -> list[str]:
  """Returns distinct names without suffix; long ones are shortened to leave room for a suffix."""
  return distinct_names([_cut(path) for path in paths])


def _cut(path: str) -> str:
  folder, slash, name = path.rpartition("/")
  if len(os.fsencode(name)) <= _NAME_BYTES:
    return path
  stem, _, suffix = name.rpartition(".")
  mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
  short = os.fsencode(stem)[: _NAME_BYTES - 20].decode(errors="ignore")
  return f"{folder}{slash}{short}-{mark}.{suffix}"
