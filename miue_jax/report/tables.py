"""Conditions -> cells, and cells -> aligned Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report.aggregate import Condition, Row, Statistic, aggregate, finite

MISSING = "\N{EN DASH}"
LISTED = 20  # values of a setting written out; a manifest may list every perturbed image
NO_RESULTS = "No victim has been trained yet; mode 'evaluate' does that."

Columns = Sequence[tuple[str, bool]]  # header, and whether the column holds numbers

RESULT_COLUMNS = (
  ("dataset", False),
  ("victim", False),
  ("defence", False),
  ("trained on", False),
  ("seeds", True),
  ("epochs", True),
  ("test (%)", True),
  ("peak test (%)", True),
  ("fall (points)", True),
  ("train (%)", True),
  ("balanced (%)", True),
  ("AUC", True),
  ("time (s)", True),
)
RESULT_LEGEND = (
  "Mean ± sample standard deviation over seeds. Test: accuracy on clean test images after the last "
  "epoch; peak: at its best epoch, where somebody with clean images to validate on would stop; "
  "fall: against training on the originals; train: accuracy on the images trained on; balanced: "
  "mean accuracy of the classes; AUC: area under the ROC curve, 0 to 1."
)


def number(value: Any, digits: int) -> str:
  """A finite number with `digits` decimals; a dash for anything else."""
  return f"{value:.{digits}f}" if finite(value) else MISSING


def mean_and_spread(value: Statistic | None, digits: int = 1) -> str:
  """`12.3 ± 1.2`; without the spread for one seed; a dash for no value."""
  if value is None:
    return MISSING
  std = "" if value.std is None else f" ± {value.std:.{digits}f}"
  return f"{value.mean:.{digits}f}{std}"


def results(conditions: Sequence[Condition]) -> tuple[Columns, list[list[str]]]:
  """Columns and one row of strings for each condition; a lone dataset takes no column."""
  cells = [
    [
      c.dataset,
      c.victim,
      c.defence,
      c.method,
      str(c.seeds),
      ", ".join(str(e) for e in c.epochs) or MISSING,
      mean_and_spread(c.metrics["test_accuracy"]),
      mean_and_spread(c.metrics["peak_test_accuracy"]),
      number(c.fall, 1),
      mean_and_spread(c.metrics["train_accuracy"]),
      mean_and_spread(c.metrics["balanced_accuracy"]),
      mean_and_spread(c.metrics["auc"], 3),
      mean_and_spread(c.metrics["seconds"], 0),
    ]
    for c in conditions
  ]
  if len({c.dataset for c in conditions}) > 1:
    return RESULT_COLUMNS, cells
  return RESULT_COLUMNS[1:], [row[1:] for row in cells]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
  """Nested settings as `(dotted.key, readable value)` pairs, in the order given."""
  pairs = []
  for key, value in tree.items():
    name = f"{prefix}{key}"
    if isinstance(value, Mapping):
      pairs += flatten(value, f"{name}.")
    else:
      pairs.append((name, _readable(str(key), value)))
  return pairs


def _readable(key: str, value: Any) -> str:
  if value is None or value == "" or (isinstance(value, float) and not finite(value)):
    return MISSING
  if isinstance(value, list | tuple):
    if len(value) > LISTED:
      return f"{len(value)} values"
    return ", ".join(_readable(key, item) for item in value) or MISSING
  if isinstance(value, float):
    # Budgets and steps are thought of in 255ths of the pixel range.
    in_255ths = key in ("epsilon", "epsilon_start", "step_size_start", "step_size_end")
    return f"{value * 255:.4g}/255" if in_255ths else f"{value:.6g}"
  return str(value)


def escape(text: str) -> str:
  """Keeps markup, cell borders and line breaks out of a Markdown cell or sentence."""
  for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
    text = text.replace(character, entity)
  return " ".join(text.split())


def markdown(columns: Columns, cells: Sequence[Sequence[str]]) -> str:
  """An aligned Markdown table; columns of numbers are set flush right."""
  body = [[escape(cell) for cell in row] for row in cells]
  widths = [
    max(3, len(name), *(len(row[i]) for row in body)) for i, (name, _) in enumerate(columns)
  ]
  rule = [
    "-" * (width - 1) + ":" if numeric else "-" * width
    for width, (_, numeric) in zip(widths, columns, strict=True)
  ]

  def line(row: Sequence[str]) -> str:
    padded = (
      cell.rjust(width) if numeric else cell.ljust(width)
      for cell, width, (_, numeric) in zip(row, widths, columns, strict=True)
    )
    return f"| {' | '.join(padded)} |"

  return "\n".join(line(row) for row in ([name for name, _ in columns], rule, *body))


def table(rows: list[Row]) -> str:
  """The results as an aligned Markdown table, one line for each condition.

  Raises:
    UserError: a row lacks one of the keys that identify it.
  """
  return markdown(*results(aggregate(rows))) if rows else NO_RESULTS
