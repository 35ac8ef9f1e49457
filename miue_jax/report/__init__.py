"""Turns rows of results into tables, figures and self-contained HTML pages.

The report reads plain mappings that the stages wrote (rows, manifests, measurements) and imports
none of the stages.
"""

import contextlib
import os
from pathlib import Path

from miue_jax.report.aggregate import Axes
from miue_jax.report.comparison import Comparison, Results
from miue_jax.report.experiment import Examples, Experiment, table
from miue_jax.report.information import table as information_table
from miue_jax.settings.errors import UserError

__all__ = [
  "Axes",
  "Comparison",
  "Examples",
  "Experiment",
  "Results",
  "information_table",
  "table",
  "write",
]


def write(directory: Path, report: Experiment | Comparison) -> None:
  """Writes the files of a report into a directory, which is made if missing.

  All new files are complete before the first old one is replaced.

  Args:
    directory: where the files go.
    report: what the report is about; its `files` names the files.

  Raises:
    UserError: a row lacks a key that identifies it, or the files cannot be written.
  """
  files = report.files
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
      with contextlib.suppress(OSError):  # The first error is the one to report.
        path.unlink()
