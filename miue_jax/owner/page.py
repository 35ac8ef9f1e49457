"""Writes the page of a protection: a private one, and one without pictures and names to share."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from miue_jax.experiment.results import Rows
from miue_jax.machine import files
from miue_jax.owner import private
from miue_jax.owner.load import some
from miue_jax.owner.private import Private
from miue_jax.pictures import decode, quality
from miue_jax.pictures.key import Entry
from miue_jax.report import figures, pages, tables, verdict
from miue_jax.report.aggregate import Statistic
from miue_jax.report.verdict import Verdict

SHAREABLE = "shareable.html"  # in the same folder as the private page

_SHOWN = 3  # pictures
_MEASURED = 12  # pictures whose visible difference is measured
_DETAIL = 360, 480  # height and width of a detail in pixels, at most
_ENLARGED = 240  # pixels; smaller pictures are enlarged to about this size
_DATES = 6  # dates below the curve of the audits, at most

_FIRST = "PRIVATE: this page shows originals, pixel by pixel, and names. Do not publish it."
_SHARED = "This page has no pictures and no names; it may be shared."
_TRIALS = {
  "Network": lambda row: row["victim"],
  "Published": lambda row: f"{row['published']:.0f}",
  "Originals": lambda row: f"{row['originals']:.0f}",
}
_AUDIT = {
  "Attack": lambda row: row["attack"],
  "Accuracy": lambda row: f"{row['published']:.0f}",
  "Gives back": lambda row: f"{100 * row['share']:.0f} %",
  "Advice": lambda row: _advice(row),
}
# What an audit found: its strongest attack, and the number of its attacks.
_TREND = {
  "Date": lambda audit: audit[0]["date"],
  "Strongest attack": lambda audit: audit[0]["attack"],
  "Gives back": lambda audit: (
    f"{100 * audit[0]['share']:.0f}\u00a0%, {verdict.judge(audit[0]['share'])}"
  ),
  "Tried": lambda audit: str(audit[1]),
  "Version": lambda audit: audit[0]["version"],
}


@dataclasses.dataclass(frozen=True)
class Folders:
  """Names the folders of originals and of published files, and the entries of the key."""

  photos: pathlib.Path
  out: pathlib.Path
  entries: Sequence[Entry]

  def pair(self, entry: Entry) -> tuple[decode.Picture, decode.Picture]:
    """Reads an original and its published file."""
    original = decode.read(self.photos / entry.name, entry.name)
    return original, decode.read(self.out / entry.published, entry.published)


def note(
  store: Private, folders: Folders, left_out: Sequence[str], key: str, shareable: bool
) -> None:
  """Measures what people see, and stores what the page says besides the verdict and the audits.

  Args:
    store: The private folder.
    folders: Where pictures are.
    left_out: Lines about what was left out.
    key: Sentence about the key.
    shareable: Whether to write the page without pictures and names as well.

  Raises:
    UserError: A file cannot be read or written.
  """
  chosen = some(folders.entries, _MEASURED)
  noted = {
    "photos": str(folders.photos.absolute()),
    "left_out": list(left_out),
    "key": key,
    "shareable": shareable,
    "visibility": _visibility(quality.compare(*folders.pair(entry)) for entry in chosen),
    "measured": len(chosen),
  }
  files.write_json(store.noted, noted)


def check(store: Private) -> None:
  """Checks what a page is made of, before work that takes long.

  Raises:
    UserError: A file is damaged.
  """
  private.verdict_of(store)
  if files.exists(store.noted):
    private.noted_in(store)
  Rows(store.audits, private.Audit).read()


def write(store: Private, found: Verdict, folders: Folders) -> pathlib.Path:
  """Writes `index.html`, and perhaps `shareable.html`, into the private folder.

  Returns:
    The path of the private page.

  Raises:
    UserError: A file cannot be read or written.
  """
  noted, trials = private.noted_in(store), private.trials_of(store)
  audits = private.by_audit(Rows(store.audits, private.Audit).read())
  strongest = [(max(rows, key=lambda row: row["share"]), len(rows)) for rows in audits]
  values: dict[str, Any] = {
    "verdict": found,
    "trials": tables.build(trials, _TRIALS, {"Network"}),
    "trend": tables.build(strongest[::-1], _TREND, set(_TREND) - {"Tried"}),
    "drawing": _drawing([row for row, _ in strongest]),
    "audit": tables.build(audits[-1] if audits else (), _AUDIT, {"Attack", "Advice"}),
    "visibility": noted["visibility"],
    "measured": noted["measured"],
  }
  # By folders, so that pictures that were added later do not show a class twice.
  entries = sorted(folders.entries, key=lambda entry: entry.published)
  ours: dict[str, Any] = {
    "title": f"Protection of {folders.photos.name}",
    "first": _FIRST,
    "private": True,
    "pictures": [_detail(folders, entry) for entry in some(entries, _SHOWN)],
    "left_out": noted["left_out"],
    "key": noted["key"],
  }
  shared: dict[str, Any] = {"title": "Protection of pictures", "first": _SHARED, "private": False}
  shared |= {"pictures": (), "left_out": (), "key": ""}
  pages_of = {"index.html": ours} | ({SHAREABLE: shared} if noted["shareable"] else {})
  texts = {name: pages.render("protection", "html", values | own) for name, own in pages_of.items()}
  files.write_texts(store.page, texts)
  return store.page / "index.html"


def _advice(row: Mapping[str, Any]) -> str:
  """Returns the advice of an attack that gives back too much; earlier versions stored none."""
  protected = verdict.judge(row["share"]) == verdict.PROTECTED
  return tables.MISSING if protected else row.get("advice", tables.MISSING)


def _drawing(rows: Sequence[Mapping[str, Any]]) -> str | None:
  """Draws how much the strongest attack of each audit gave back; None for fewer than two."""
  if len(rows) < 2:
    return None
  points = [
    (float(i), Statistic(min(100.0, 100 * row["share"]), None, 1)) for i, row in enumerate(rows)
  ]
  # Every n-th date, counted from the latest one, so that dates do not overlap.
  apart = -(-len(rows) // _DATES)
  dates = ["" if (len(rows) - 1 - i) % apart else row["date"] for i, row in enumerate(rows)]
  chart = figures.Chart(
    "Strongest attack of each audit",
    "date of the audit",
    "given back (%)",
    {"strongest attack": points},
    ticks=dates,
    scale="percent",
  )
  return figures.line_charts([chart], height=2.2, width=figures.NARROW)


def _visibility(found: Iterable[quality.Quality]) -> list[tuple[str, str]]:
  values = list(found)
  names = {
    "CIEDE2000, mean": ("delta_e_mean", 2),
    "CIEDE2000, 99th percentile": ("delta_e_p99", 2),
    "SSIM": ("ssim", 3),
    "PSNR in dB": ("psnr", 1),
  }
  lines = []
  for name, (field, digits) in names.items():
    known = [value for one in values if (value := getattr(one, field)) is not None]
    if known:
      lines.append((name, f"{np.mean(known):.{digits}f}"))
  return lines


def _detail(folders: Folders, entry: Entry) -> tuple[str, str, str]:
  """Returns a name, and the centres of the original and of the published file as data URIs."""

  def detail(picture: decode.Picture) -> str:
    image = decode.srgb(picture)
    top, left = (max(0, (image.shape[axis] - _DETAIL[axis]) // 2) for axis in (0, 1))
    shown = image[top:, left:][: _DETAIL[0], : _DETAIL[1]]
    return figures.image_uri(np.ascontiguousarray(shown), _ENLARGED)

  original, published = folders.pair(entry)
  return entry.name, detail(original), detail(published)
