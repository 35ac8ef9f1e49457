"""Writes the page of a protection: a private one, and one without pictures and names to share."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miue_jax.experiment.results import Rows
from miue_jax.machine import documents, files
from miue_jax.owner import private
from miue_jax.owner.private import Private
from miue_jax.pictures import decode, quality
from miue_jax.pictures.key import Entry
from miue_jax.report import figures, pages, tables
from miue_jax.report.verdict import Verdict

_SHOWN = 3  # pictures
_MEASURED = 12  # pictures whose visible difference is measured
_DETAIL = 256  # pixels a side of a detail

_FIRST = "Private: this page shows originals and names. Do not publish it."
_SHARED = "This page has no pictures and no names; it may be shared."
_TRIALS = {
  "Network": lambda row: row["victim"],
  "Published": lambda row: f"{row['published']:.0f}",
  "Originals": lambda row: f"{row['originals']:.0f}",
}
_AUDITS = {
  "Date": lambda row: row["date"],
  "Version": lambda row: row["version"],
  "Attack": lambda row: row["attack"],
  "Accuracy": lambda row: f"{row['published']:.0f}",
  "Share": lambda row: f"{100 * row['share']:.0f} %",
}


@dataclasses.dataclass(frozen=True)
class Folders:
  """Names the folders of originals and of published files, and the entries of the key."""

  photos: pathlib.Path
  out: pathlib.Path
  entries: Sequence[Entry]


def write(
  store: Private,
  verdict: Verdict,
  folders: Folders,
  left_out: Sequence[str],
  key: str,
  shareable: bool,
) -> pathlib.Path:
  """Writes `index.html`, and perhaps `shareable.html`, into the private folder.

  Args:
    store: The private folder.
    verdict: The verdict.
    folders: Where pictures are.
    left_out: Lines about what was left out.
    key: Sentence about the key.
    shareable: Whether to write the page without pictures and names as well.

  Returns:
    The path of the private page.

  Raises:
    UserError: A file cannot be read or written.
  """
  content = documents.read_json(store.verdict)
  rows = Rows(store.audits, private.Audit).read()
  step = max(1, len(folders.entries) // _MEASURED)
  pairs = [_pair(folders, entry) for entry in folders.entries[::step][:_MEASURED]]
  values: dict[str, Any] = {
    "verdict": verdict,
    "trials": tables.build(content.get("trials", []), _TRIALS, {"Network"}),
    "audits": tables.build(rows, _AUDITS, {"Date", "Version", "Attack"}),
    "visibility": _visibility(pairs),
    "measured": len(pairs),
  }
  files.make_folder(store.page)
  ours: dict[str, Any] = {
    "title": f"Protection of {folders.photos.name}",
    "first": _FIRST,
    "pictures": _details(pairs[:_SHOWN], folders.entries[::step]),
    "left_out": left_out,
    "key": key,
  }
  shared: dict[str, Any] = {"title": "Protection of pictures", "first": _SHARED, "pictures": None}
  shared |= {"left_out": (), "key": ""}
  _write(store.page / "index.html", values | ours)
  if shareable:
    _write(store.page / "shareable.html", values | shared)
  return store.page / "index.html"


def _write(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  with files.replacing(path) as file:
    file.write(pages.render("protection", "html", values).encode())


def _pair(folders: Folders, entry: Entry) -> tuple[decode.Picture, decode.Picture]:
  original = decode.read(folders.photos / entry.name, entry.name)
  return original, decode.read(folders.out / entry.published, entry.published)


def _visibility(pairs: Sequence[tuple[decode.Picture, decode.Picture]]) -> list[tuple[str, str]]:
  found = [quality.compare(*pair) for pair in pairs]
  names = {
    "CIEDE2000, mean": ("delta_e_mean", 2),
    "CIEDE2000, 99th percentile": ("delta_e_p99", 2),
    "SSIM": ("ssim", 3),
    "PSNR in dB": ("psnr", 1),
  }
  lines = []
  for name, (field, digits) in names.items():
    known = [value for one in found if (value := getattr(one, field)) is not None]
    if known:
      lines.append((name, f"{np.mean(known):.{digits}f}"))
  return lines


def _details(
  pairs: Sequence[tuple[decode.Picture, decode.Picture]], entries: Sequence[Entry]
) -> Mapping[str, Any] | None:
  """Returns the same part of originals and published files, from their centres."""
  if not pairs:
    return None

  def detail(picture: decode.Picture) -> str:
    image = decode.srgb(picture)
    top, left = (max(0, (side - _DETAIL) // 2) for side in image.shape[:2])
    return figures.image_uri(np.ascontiguousarray(image[top:, left:][:_DETAIL, :_DETAIL]))

  rows = [
    (name, [detail(pair[number]) for pair in pairs])
    for number, name in enumerate(("original", "published"))
  ]
  return {"captions": [entry.name for entry, _ in zip(entries, pairs, strict=False)], "rows": rows}
