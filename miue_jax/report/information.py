"""The measurement -> cells and sentences: mutual information and the terms of Theorem 5.1."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from miue_jax.report import tables
from miue_jax.report.aggregate import CONTROLS, finite
from miue_jax.report.tables import MISSING, Columns, number

Measured = Mapping[str, Any]

COLUMNS = (
  ("images", False),
  ("estimator", False),
  ("mutual information (nats)", True),
  ("std", True),
  ("95 % interval", True),
  ("shuffled pairs", True),
)
THEORY_COLUMNS = (
  ("trained on", False),
  ("features of", False),
  ("half ln det (nats)", True),
  ("intra-class cosine", True),
  ("inter-class cosine", True),
  ("effective rank", True),
  ("not normal (nats)", True),
)
THEORY_LEGEND = (
  "Features of the same images before and after release, means over classes. Half ln det: the "
  "covariance term of Theorem 5.1, by shrunk covariances, to be compared between models of one "
  "architecture; cosine: mean similarity of two images of one class, and of two classes; effective "
  "rank: directions in which a class varies; not normal: a lower bound of the classes' divergence "
  "from normal distributions."
)
SPECTRUM_LEGEND = (
  "Largest eigenvalues of the covariance of a class of features, means over classes: solid lines "
  "released images, dashed lines the same images before. Compare the two lines of one colour: the "
  "models differ in scale."
)
RIVAL_COLUMNS = (
  ("trained on", False),
  ("perturbations separable (%)", True),
  ("released images separable (%)", True),
  ("distance of class means, before to after", True),
  ("loss of the first epoch (nats)", True),
  ("epochs until half of it", True),
)
RIVAL_LEGEND = (
  "Other reasons why a poison might work. Separable: accuracy of a linear classifier of the "
  "classes (logistic regression) on held-out images, that on its own training images after a "
  "slash, and in brackets that of always naming the largest class; distance: of two class means of "
  "the features, in units of the spread inside a class; loss: of the victim on its training "
  "images: a fast learner has a small one and needs few epochs."
)
_TERMS = (
  ("half_log_det", 1),
  ("intra_cosine", 3),
  ("inter_cosine", 3),
  ("effective_rank", 1),
  ("divergence", 3),
)
CLASS_COLUMNS = (
  ("trained on", False),
  ("class", True),
  ("images", True),
  ("half ln det (nats)", True),
  ("intra-class cosine", True),
  ("inter-class cosine", True),
  ("effective rank", True),
  ("not normal (nats)", True),
)
CLASSES = 20  # shown of a poison; report.json holds all
# A row of older measurements does not say it.
_UNNAMED = "the estimator"
_LAST = "features"  # what the classifier sees


def named(row: Measured) -> str:
  """What an estimate is of: its estimator, and its layer unless that is the last one.

  Older rows carry neither.
  """
  layer = row.get("layer") or _LAST
  return str(row.get("estimator") or _UNNAMED) + (f" of {layer}" if layer != _LAST else "")


def groups(rows: Iterable[Measured]) -> dict[str, list[Measured]]:
  """Rows by `named`, in order of appearance."""
  found: dict[str, list[Measured]] = {}
  for row in rows:
    found.setdefault(named(row), []).append(row)
  return found


def cells(rows: Sequence[Measured]) -> list[list[str]]:
  """One row of strings for each estimate, in the order of `COLUMNS`."""
  return [
    [
      str(row.get("method")),
      named(row) if row.get("estimator") else MISSING,
      number(row.get("mi"), 3),
      number(row.get("std"), 3),
      _interval(row.get("interval")),
      _null(row),
    ]
    for row in rows
  ]


def _interval(ends: Any) -> str:
  if not isinstance(ends, list | tuple) or len(ends) != 2:
    return MISSING
  return f"{number(ends[0], 3)} to {number(ends[1], 3)}"


def _null(row: Measured) -> str:
  if not finite(row.get("null_mean")):
    return MISSING
  return f"{row['null_mean']:.3f} ± {number(row.get('null_std'), 3)}"


def table(measurement: Measured) -> str:
  """Markdown for the terminal: one line for each estimator of two files, then the warnings."""
  rows, used = measurement["rows"], measurement["settings"]
  lines = [
    tables.markdown(COLUMNS[1:], [row[1:] for row in cells(rows)]),
    "",
    f"{used['samples']} of {used['of']} rows; intervals hold the sampling error, not the bias.",
    *(f"- {line}" for line in warnings(rows)),
  ]
  return "\n".join(lines)


def warnings(rows: Iterable[Measured]) -> list[str]:
  """What the estimators warn about, each once, with the rows that it is said of."""
  found: dict[str, list[str]] = {}
  for row in rows:
    own = (named(row) if row.get("estimator") else "", row.get("method"))
    source = ", ".join(str(part) for part in own if part)
    for sentence in row.get("warnings") or ():
      found.setdefault(str(sentence), []).append(source)
  return [f"{'; '.join(sources)}: {sentence}" for sentence, sources in found.items()]


def settings(measurement: Measured | None) -> list[tuple[str, str]]:
  """What all rows share, and the settings of each estimator, as readable pairs.

  An estimator that was set alike for all layers is listed once.
  """
  measurement = measurement or {}
  found: dict[str, dict[str, Any]] = {}
  for name, rows in groups(measurement.get("rows") or ()).items():
    if isinstance(rows[0].get("settings"), Mapping):
      of_layers = found.setdefault(str(rows[0].get("estimator") or _UNNAMED), {})
      of_layers[name] = rows[0]["settings"]
  own: dict[str, Any] = {}
  for estimator, of_layers in found.items():
    first, *others = of_layers.values()
    alike = all(other == first for other in others)
    own |= {estimator: first} if len(of_layers) > 1 and alike else of_layers
  return tables.flatten(measurement.get("settings") or {}) + tables.flatten(own)


def disagreement(rows: Sequence[Measured]) -> str | None:
  """One sentence where an estimate for a poison is not below that for clean images, else None."""
  against = []
  for name, members in groups(rows).items():
    values = {row.get("method"): row["mi"] for row in members if finite(row.get("mi"))}
    clean = values.pop("clean", None)
    if clean is None:
      continue
    against += [
      f"{name} ({value:.3f} nats for {method}, {clean:.3f} for clean)"
      for method, value in values.items()
      if method not in CONTROLS and value >= clean
    ]
  if not against:
    return None
  return (
    "Against the paper's thesis, that a poison works by lowering mutual information, it is not "
    f"below that of clean images according to {', '.join(against)}."
  )


def theory_table(measurement: Measured | None) -> tuple[Columns, list[list[str]]]:
  """Columns and cells: for each condition its features before and after release."""
  rows = []
  for row in (measurement or {}).get("theory") or ():
    shown = ("before", "after") if row.get("before") != row.get("after") else ("after",)
    for moment in shown:
      terms = row.get(moment)
      if not isinstance(terms, Mapping):
        continue
      rows.append(
        [
          str(row.get("method")),
          "clean images" if moment == "before" or len(shown) == 1 else "released images",
          *(number(terms.get(name), digits) for name, digits in _TERMS),
        ]
      )
  return THEORY_COLUMNS, rows


def class_table(measurement: Measured | None) -> tuple[Columns, list[list[str]]]:
  """Columns and cells: every class of every poison, before and after release."""
  rows = []
  for row in (measurement or {}).get("theory") or ():
    if row.get("method") in CONTROLS:
      continue
    for one in list(row.get("classes") or ())[:CLASSES]:
      pairs = (
        f"{number(one['before'].get(name), digits)} to {number(one['after'].get(name), digits)}"
        for name, digits in _TERMS
      )
      rows.append([str(row.get("method")), str(one["label"]), str(one["samples"]), *pairs])
  return CLASS_COLUMNS, rows


def rival_table(measurement: Measured | None) -> tuple[Columns, list[list[str]]]:
  """Columns and cells: for each condition what other explanations look at; none in older ones."""
  rows = [row for row in (measurement or {}).get("theory") or () if "learning" in row]
  return RIVAL_COLUMNS, [
    [
      str(row.get("method")),
      _separable(row.get("perturbations")),
      _separable(row.get("images")),
      _distance(row.get("class_means") or {}),
      number(row["learning"].get("first_loss"), 3),
      number(row["learning"].get("epochs_to_half"), 1),
    ]
    for row in rows
  ]


def _separable(found: Any) -> str:
  if not isinstance(found, Mapping) or not finite(found.get("test_accuracy")):
    return MISSING
  train = number(found.get("train_accuracy"), 1)
  return f"{found['test_accuracy']:.1f} / {train} ({number(found.get('chance'), 1)})"


def _distance(means: Measured) -> str:
  return f"{number(means.get('before'), 2)} to {number(means.get('after'), 2)}"


def spectra(measurement: Measured | None) -> dict[str, dict[str, list[float]]]:
  """By method, `before` and `after` release: mean over classes of each of the largest eigenvalues.

  Empty where they were not measured.
  """
  found = {}
  for row in (measurement or {}).get("theory") or ():
    classes = [one for one in row.get("classes") or () if "spectrum" in one.get("after", ())]
    if classes:
      found[str(row.get("method"))] = {
        moment: [
          sum(values) / len(values)
          for values in zip(*(one[moment]["spectrum"] for one in classes), strict=True)
        ]
        for moment in ("before", "after")
      }
  return found


def theory_sentences(measurement: Measured | None) -> list[str]:
  """Whether the covariance term is smaller for the poison, and what could not be measured."""
  rows = list((measurement or {}).get("theory") or ())
  values = {
    row.get("method"): row["after"]["half_log_det"]
    for row in rows
    if isinstance(row.get("after"), Mapping) and finite(row["after"].get("half_log_det"))
  }
  clean = values.pop("clean", None)
  sentences = [
    "By Theorem 5.1 a poison lowers the bound where it makes each class of its features compact: "
    f"half ln det is {value:.1f} nats for the released images of {method} and {clean:.1f} for "
    f"clean ones, so this {'agrees' if round(value, 1) < round(clean, 1) else 'does not agree'}."
    for method, value in values.items()
    if clean is not None and method not in CONTROLS
  ]
  for row in rows:
    for part in (row, row.get("perturbations")):
      if isinstance(part, Mapping) and not {"after", "test_accuracy"} & set(part):
        sentences.append(f"Not measured for {row.get('method')}: {part.get('note')}")
  return sentences
