"""Surveys a folder of pictures: classes, pictures of each, and what is left out, by name."""

import codecs
import collections
import csv
import dataclasses
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, cast

from miue_jax.machine import files, reading, threads
from miue_jax.machine.terminal import counted
from miue_jax.pictures import decode
from miue_jax.pictures.listing import LeftOut, empty, listed
from miue_jax.pictures.names import published_names
from miue_jax.settings.errors import UserError, escaped

# Names of split folders, by what they are for; capitals do not matter.
SPLITS = {
  "train": ("train", "training"),
  "test": ("test", "testing"),
  "val": ("val", "valid", "validation", "dev"),
}
_NAMED = 100  # files at most, for each reason
_MOST_LABELS = 2**30  # bytes of a file of labels
_SHOWN = 60  # characters of its first line
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8


@dataclasses.dataclass(frozen=True)
class Found:
  """Names one picture.

  Attributes:
    path: Path relative to the folder, with "/" and with its suffix.
    class_name: Name of its class; empty if the folder has no classes.
    split: Name of the split folder as the folder spells it (`"Training"`), or None.
    published: Path without a suffix, distinct among all pictures: where the picture is published.
  """

  path: str
  class_name: str
  split: str | None
  published: str


@dataclasses.dataclass(frozen=True)
class Survey:
  """Describes a folder of pictures.

  Attributes:
    root: The folder.
    pictures: All pictures that can be read, sorted by class, then path.
    left_out: Everything else.
    notes: Sentences about decisions, such as which folders are splits.
    duplicates: Groups of paths whose files have the same bytes.
  """

  root: str
  pictures: tuple[Found, ...]
  left_out: tuple[LeftOut, ...]
  notes: tuple[str, ...]
  duplicates: tuple[tuple[str, ...], ...]

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns the names of the classes, sorted."""
    return tuple(sorted({found.class_name for found in self.pictures}))

  def counts(self) -> dict[str, int]:
    """Returns the number of pictures of each class, over all splits."""
    counts = collections.Counter(found.class_name for found in self.pictures)
    return {name: counts[name] for name in self.class_names}

  def describe(self) -> str:
    """Returns what was found in lines for a terminal; names up to 100 files per reason."""
    counts = self.counts()
    pictures = counted(len(self.pictures), "picture")
    lines = [f"{pictures} in {counted(len(counts), 'class')}:"]
    lines += [f"  {escaped(name)}: {count}" for name, count in counts.items()]
    if set(counts) == {""}:
      lines = [f"{pictures} without classes; folders are not taken for classes."]
    lines += self.notes
    if self.duplicates:
      lines.append(f"Exact duplicates, {counted(len(self.duplicates), 'group')}:")
      lines += indented([" = ".join(group) for group in self.duplicates])
    return "\n".join([*lines, *self.omissions()])

  def omissions(self) -> list[str]:
    """Returns lines that say what is left out; they name up to 100 files per reason."""
    by_reason: dict[str, list[str]] = {}
    for item in self.left_out:
      by_reason.setdefault(item.reason, []).append(f"{item.path}: {item.reason}")
    lines = [f"Left out ({len(self.left_out)}):"] if by_reason else []
    for items in by_reason.values():
      lines += indented(items)
    return lines


def indented(lines: Sequence[str]) -> list[str]:
  """Returns lines for a terminal, at most 100 of them, and how many more there are."""
  shown = [f"  {escaped(line)}" for line in lines[:_NAMED]]
  return shown + ([f"  and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else [])


def survey(
  root: str | os.PathLike,
  *,
  exclude: Sequence[str | os.PathLike] = (),
  labels: str | os.PathLike | None = None,
  unlabelled: bool = False,
  strict: bool = False,
  follow: bool = False,
  check: bool = True,
) -> Survey:
  """Walks a folder of pictures once.

  The folder holds `<class>/...`, or `<split>/<class>/...`, or pictures with a CSV file of labels.
  Top-level folders with pictures in folders below are splits if their names are those of splits,
  such as `train`, `Training`, `val` or `Testing`, and no other folder holds pictures. One such
  folder among two or more others is a class.

  Args:
    root: The folder.
    exclude: Files and folders that are not surveyed, such as the output and its key.
    labels: CSV file with the columns `file` and `class`; its paths are relative to the folder.
    unlabelled: Whether pictures have no classes; all of them count, wherever they are.
    strict: Whether a file or folder that cannot be read is an error.
    follow: Whether links are followed.
    check: Whether the header of every picture is read and duplicates are looked for.

  Raises:
    UserError: There is no such folder or no picture in it, it is unclear which folders are splits,
      the CSV is unusable, or `strict` is True and a file or folder cannot be read.
  """
  root = str(root)
  if not files.is_folder(root):
    raise UserError(f"{root} is not a folder: correct the path.")
  skipped = {str(files.resolved(path)) for path in exclude}
  paths, folders, left_out = listed(root, skipped, follow, strict)
  left_out += empty(paths, folders)
  notes: list[str] = []
  if check:
    paths, broken = _checked(root, paths, strict)
    left_out += broken
  if labels is not None:
    named, problems = _labelled(root, paths, labels)
  elif unlabelled:
    named, problems = [(path, "", None) for path in paths], []
  else:
    named, problems = _by_folder(root, paths, notes)
  left_out += problems
  if not named:
    example = ""
    if left_out:
      first = left_out[0]
      example = f" ({len(left_out)} left out, such as {escaped(first.path)}: {first.reason})"
    if unlabelled:
      raise UserError(f"{root} has no pictures{example}: correct the path.")
    raise UserError(
      f"{root} has no pictures in class folders{example}: put the pictures of each class in one "
      "folder, or give --labels FILE.csv or --clusters NUMBER."
    )
  named.sort(key=lambda item: (item[2] or "", item[1], item[0]))
  stems = published_names([path for path, _, _ in named])
  pictures = tuple(
    Found(path, class_name, split, stem)
    for (path, class_name, split), stem in zip(named, stems, strict=True)
  )
  same = _duplicates(root, [found.path for found in pictures]) if check else ()
  return Survey(root, pictures, tuple(sorted(left_out, key=lambda x: x.path)), tuple(notes), same)


def _checked(root: str, paths: Sequence[str], strict: bool) -> tuple[list[str], list[LeftOut]]:
  """Returns the pictures whose header can be read, and the others with the reason."""

  def problem(path: str) -> str:
    try:
      decode.header(os.path.join(root, path), escaped(path))
    except UserError as error:
      if strict:
        raise
      return str(error).removeprefix(escaped(path)).strip()
    return ""

  problems = list(threads.each(problem, paths))
  pairs = list(zip(paths, problems, strict=True))
  return [path for path, bad in pairs if not bad], [LeftOut(p, bad) for p, bad in pairs if bad]


Named = list[tuple[str, str, str | None]]  # path, class, split


def _by_folder(root: str, paths: Sequence[str], notes: list[str]) -> tuple[Named, list[LeftOut]]:
  """Tells classes from splits."""
  tops: dict[str, bool] = {}  # top folder -> whether it holds folders with pictures
  for path in paths:
    parts = path.split("/")
    if len(parts) > 1:
      tops[parts[0]] = tops.get(parts[0], False) or len(parts) > 2
  splits = [top for top, deep in tops.items() if deep and role(top)]
  others = [top for top in tops if top not in splits]
  if splits and others:
    if len(splits) > 1 or len(others) < 2:
      raise UserError(
        f"{root} holds {', '.join(map(escaped, splits))}, which may be a split or a class, next to "
        f"{', '.join(map(escaped, others))}: rename or move folders until all of them are splits, "
        "or all are classes."
      )
    notes.append(f"The folder {splits[0]} is taken for a class, like {', '.join(others[:3])}.")
    splits = []
  if splits:
    notes.append(f"The top-level folders {', '.join(splits)} are splits; classes are below them.")
  named, loose = [], []
  depth = 1 if splits else 0
  for path in paths:
    parts = path.split("/")
    if len(parts) < depth + 2:
      loose.append(LeftOut(path, "a loose picture: it is in no class folder"))
    else:
      named.append((path, parts[depth], parts[0] if splits else None))
  return named, loose


def role(folder: str) -> str:
  """Returns which split a folder's name stands for: `train`, `test`, `val`, or an empty string."""
  return next((kind for kind, names in SPLITS.items() if folder.lower() in names), "")


def _labelled(
  root: str, paths: Sequence[str], labels: str | os.PathLike
) -> tuple[Named, list[LeftOut]]:
  """Reads classes from a CSV file."""
  content, present = reading.read_bytes(labels, _MOST_LABELS), set(paths)
  composed = {unicodedata.normalize("NFC", path): path for path in paths}
  if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # "Unicode text"
    content = content.decode("utf-16", "replace").encode()
  text = content.decode("utf-8-sig", "surrogateescape")
  try:
    # Spreadsheets separate by semicolons where a comma is the decimal point.
    separator = max(",;\t", key=text.partition("\n")[0].count)
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
  except (csv.Error, ValueError) as error:
    raise UserError(f"{labels} is not a CSV file: repair it.") from error
  columns = [name.strip().lower() for name in header]
  if not {"file", "class"} <= set(columns):
    line = escaped(text.partition("\n")[0].strip()[:_SHOWN])
    raise UserError(
      f"{labels} needs a first line with the columns file and class, but begins with '{line}': "
      "correct the names of its columns, or add this line."
    )
  file, class_ = columns.index("file"), columns.index("class")
  classes: dict[str, str] = {}
  for number, row in enumerate(rows, 2):
    if not any(map(str.strip, row)):  # spreadsheets write rows that were emptied as ";"
      continue
    name = path = ""
    if len(row) == len(columns):
      name, written = row[class_].strip(), row[file].strip()
      # Spaces may be part of a name, and so may backslashes, with which Windows writes paths.
      forms = [os.path.normpath(x) for x in (row[file], written, written.replace("\\", "/"))]
      # macOS decomposes accents, which spreadsheets compose.
      similar = composed.get(unicodedata.normalize("NFC", forms[2]), forms[1])
      path = next((form for form in forms if form in present), similar)
    if _NO_UTF8.search(name if path in present else name + path):
      raise UserError(f"Row {number} of {labels} is not UTF-8: save the file as CSV UTF-8.")
    if not name or classes.setdefault(path, name) != name:
      wrong = f"names {escaped(path)} again, with another class"
      if not name:
        wrong = "has no class" if path else f"does not have {len(columns)} columns"
      raise UserError(f"Row {number} of {labels} {wrong}: repair it.")
  named: Named = [(path, classes[path], None) for path in paths if path in classes]
  without = [
    LeftOut(path, "no class in the file of labels") for path in paths if path not in classes
  ]
  if paths and classes and not named:
    raise UserError(
      f"{labels} names no picture in {root}, but {escaped(next(iter(classes)))}: write paths in "
      f"this folder, such as {escaped(paths[0])}."
    )
  return named, without + [LeftOut(x, "in the labels only") for x in classes if x not in present]


def _duplicates(root: str, paths: Iterable[str]) -> tuple[tuple[str, ...], ...]:
  """Returns groups of files with the same bytes; only files of the same size are read."""
  by_size: dict[int, list[str]] = {}
  for path in paths:
    with files.reported("read", path):
      size = os.path.getsize(os.path.join(root, path))
    by_size.setdefault(size, []).append(path)
  by_content: dict[bytes, list[str]] = {}
  for group in by_size.values():
    for path in group if len(group) > 1 else ():
      with reading.opened(os.path.join(root, path)) as file:
        digest = hashlib.file_digest(cast(Any, file), "sha256").digest()
      by_content.setdefault(digest, []).append(path)
  return tuple(sorted(tuple(group) for group in by_content.values() if len(group) > 1))
