"""Rows -> tables, figures and one self-contained HTML page.

The report knows rows, not code: it reads what the other stages wrote and imports none of them.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miue_jax.report import arena_files, arena_markdown, arena_page, page
from miue_jax.report.arena import Axes
from miue_jax.report.arena import Content as ArenaContent
from miue_jax.report.arena import gather as gather_arena
from miue_jax.report.content import Examples, gather
from miue_jax.report.information import table as information_table
from miue_jax.report.tables import table
from miue_jax.settings.errors import UserError

__all__ = [
  "ArenaContent",
  "Axes",
  "Examples",
  "gather_arena",
  "information_table",
  "table",
  "write",
  "write_arena",
]


def write(
  directory: Path,
  *,
  rows: list[dict[str, Any]],
  config: Mapping[str, Any],
  command: str,
  manifest: Mapping[str, Any] | None = None,
  measurement: Mapping[str, Any] | None = None,
  examples: Examples | None = None,
) -> str:
  """Writes `index.html`, `report.md` and `report.json` into `directory`.

  The same arguments give the same bytes: nothing depends on the time or the machine. All three
  files are written beside the old ones before any of those is replaced.

  Args:
    directory: made if missing.
    rows: trained victims; accuracies in percent, `auc` in [0, 1], `seconds`. A victim that occurs
      twice counts once, by its last row.
    config: the experiment's settings, nested.
    command: the command line that started it.
    manifest: the poison's manifest. `num_classes` here or in the rows sets the chance level.
    measurement: `{"settings": {...}, "rows": [{"method", "mi" in nats, "std"}]}`, perhaps with
      `theory` and with more in each row (`estimator`, `interval`, `null_mean`, `null_std`,
      `warnings`, `settings`), as mode 'measure' writes them.
    examples: images to show.

  Returns:
    The results as a Markdown table, for the terminal.

  Raises:
    UserError: a row lacks a key, or the files cannot be written.
  """
  content = gather(rows, config, command, manifest, measurement)
  _replace_all(
    directory,
    {
      "report.json": page.to_json(content, rows),
      "report.md": page.markdown(content),
      "index.html": page.html(content, examples),
    },
  )
  return table(rows)


def write_arena(
  directory: Path, contents: Sequence[ArenaContent], config: Mapping[str, Any], command: str
) -> str:
  """Writes `compare.html`, `.md`, `.csv` and `.tex` into `directory`, as `write` does.

  Args:
    directory: made if missing.
    contents: of the tables, one for each data set, as `gather_arena` returns them.
    config: the settings, nested.
    command: the command line that started it.

  Returns:
    The tables as Markdown, for the terminal.

  Raises:
    UserError: the files cannot be written.
  """
  text = arena_markdown.markdown(contents, command)
  _replace_all(
    directory,
    {
      "compare.csv": arena_files.to_csv(contents),
      "compare.tex": arena_files.latex(contents),
      "compare.md": text,
      "compare.html": arena_page.html(contents, config, command),
    },
  )
  return text


def _replace_all(directory: Path, files: dict[str, str]) -> None:
  temporary = {name: directory / f".{name}.{os.getpid()}.tmp" for name in files}
  try:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
      temporary[name].write_text(text, encoding="utf-8")
    for name, path in temporary.items():
      os.replace(path, directory / name)
  except OSError as error:
    raise UserError(
      f"The report cannot be written to {directory} ({error.strerror or error}); free some space "
      "or choose another directory."
    ) from error
  finally:
    for path in temporary.values():
      with contextlib.suppress(OSError):  # the first error is the one to report
        path.unlink()
