"""Walks a folder, and gives a reason for every file and folder that holds no picture."""

import dataclasses
import os
from collections.abc import Sequence

from miue_jax.machine import files, reading
from miue_jax.pictures import decode, dicom
from miue_jax.pictures.names import is_plain
from miue_jax.settings.errors import UserError

# Folders that systems and programs put among pictures.
_SYSTEM = ("@eadir", "@tmp", "__macosx", "#recycle", "$recycle.bin")
_SYSTEM += ("lost+found", "system volume information")
_THUMBNAILS = ("thumbnails", "thumbs", "_thumbs", "thumb")
BROKEN_LINK, NO_PICTURES = "a broken link", "a folder without pictures"  # reasons
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
_RAW = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw")
_RAW += (".rw2", ".srw")


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """Names one file or folder that is not among the pictures.

  Attributes:
    path: Path relative to the folder, with "/".
    reason: Short phrase, such as "a hidden file".
  """

  path: str
  reason: str


def listed(
  root: str, skipped: set[str], follow: bool, strict: bool = False
) -> tuple[list[str], list[str], list[LeftOut]]:
  """Returns the relative paths of all files with a picture's suffix, all folders, and the rest.

  Raises:
    UserError: The root cannot be listed, or `strict` is True and something below it cannot be read.
  """
  paths, folders, left_out, seen, pending = [], [], [], set(), [""]
  while pending:
    prefix = pending.pop()
    folder = os.path.join(root, prefix)
    try:
      if (real := files.resolved(folder)) in seen:
        continue  # A link may lead outside, but must not make a circle.
      seen.add(real)
      found = reading.entries(folder)
    except UserError as error:
      if strict or not prefix:
        raise
      folders.remove(prefix[:-1])
      left_out.append(LeftOut(prefix[:-1], _problem(error)))
      continue
    for entry in found:
      path = prefix + entry.name
      if reason := _reason(entry, skipped, follow, strict):
        left_out.append(LeftOut(path, reason))
      elif entry.kind == "folder":
        folders.append(path)
        pending.append(path + "/")
      else:
        paths.append(path)
  return sorted(paths), folders, left_out


def empty(paths: Sequence[str], folders: Sequence[str]) -> list[LeftOut]:
  """Returns the folders without pictures; those inside of them are not mentioned."""
  full = {path[:place] for path in paths for place, c in enumerate(path) if c == "/"}
  empty = {folder for folder in folders if folder not in full}
  tops = [folder for folder in empty if os.path.dirname(folder) not in empty]
  return [LeftOut(folder, NO_PICTURES) for folder in sorted(tops)]


def _problem(error: UserError) -> str:
  """Returns a phrase about an error, with the reason of the operating system if it gave one."""
  cause = error.__cause__
  reason = cause.strerror if isinstance(cause, OSError) else None
  return f"it cannot be read ({reason or error})"


def _reason(entry: reading.Entry, skipped: set[str], follow: bool, strict: bool) -> str:
  """Returns why an entry is left out; empty if it is a folder or may be a picture."""
  try:
    return _why(entry, skipped, follow)
  except UserError as error:
    if strict:
      raise
    return _problem(error)


def _why(entry: reading.Entry, skipped: set[str], follow: bool) -> str:
  name, is_folder = entry.name.lower(), entry.kind == "folder"
  if skipped and str(files.resolved(entry.path)) in skipped:
    return "the output" if is_folder else "a file of this program"
  if name in _SYSTEM or name in _SYSTEM_FILES:
    return "a folder of the system" if is_folder else "a file of the system"
  if name.startswith("."):
    return f"a hidden {'folder' if is_folder else 'file'}"
  if not is_plain(entry.name):
    return "its name holds control characters"
  if entry.kind == "broken link":
    return BROKEN_LINK
  if entry.link and not follow:
    return "a link"
  if is_folder and name in _THUMBNAILS:
    return "a folder of thumbnails"
  if is_folder:
    return "a workdir of this program" if _is_workdir(entry.path) else ""
  if entry.kind != "file":
    return f"a {entry.kind}"
  suffix = os.path.splitext(name)[1]
  if suffix in decode.readable_suffixes():
    return ""
  if suffix in decode.EXTRA_SUFFIXES:
    return f"{suffix} needs a package: run pip install 'miue-jax[{decode.EXTRA_SUFFIXES[suffix]}]'"
  if suffix in _RAW:
    return f"raw data of a camera ({suffix}): export it as TIFF or PNG"
  # Names of DICOM files are often numbers, with dots.
  if (not suffix or suffix[1:].isdecimal()) and name != "dicomdir" and _is_dicom(entry.path):
    return "a DICOM file without its suffix: rename it to end in .dcm"
  return f"no picture ({suffix or 'no suffix'})"


def _is_dicom(path: str) -> bool:
  """Returns whether a file is DICOM; archives and discs name such files without a suffix."""
  try:
    with reading.opened(path) as file:
      return dicom.is_dicom(file)
  except UserError:
    return False


def _is_workdir(folder: str) -> bool:
  """Returns whether a folder is a workdir, whose pages and exports hold pictures."""
  names = {"config.json", "log.txt", "poison"}
  return sum(files.exists(os.path.join(folder, name)) for name in names) >= 2
