"""What the report says of a measurement."""

import math

from miue_jax.report import figures, information

TERMS = {
  "half_log_det": -40.0,
  "intra_cosine": 0.5,
  "inter_cosine": None,
  "effective_rank": 3.25,
  "divergence": 0.0625,
}


def row(method, mi, estimator="sliced histogram", **changes):
  return {"method": method, "estimator": estimator, "mi": mi, "std": 0.1} | changes


def test_cells_of_new_and_old_rows():
  new = row("miue", 1.5, interval=[1.25, 1.75], null_mean=0.5, null_std=0.125)
  assert information.cells([new]) == [
    ["miue", "sliced histogram", "1.500", "0.100", "1.250 to 1.750", "0.500 ± 0.125"]
  ]
  dash = information.MISSING
  old = {"method": "clean", "mi": math.nan, "std": 0.25}
  assert information.cells([old]) == [["clean", dash, dash, "0.250", dash, dash]]


def test_agreement_is_silent():
  rows = [row("clean", 2.0), row("random", 2.5), row("miue", 1.9), row("restored", 2.0)]
  assert information.disagreement(rows) is None
  assert information.disagreement(rows[1:]) is None  # without clean features nothing is compared
  assert information.disagreement([]) is None


def test_disagreement_is_one_sentence_that_names_the_estimators():
  rows = [
    row("clean", 2.0),
    row("miue", 2.0),
    row("clean", 1.0, "mine"),
    row("miue", 0.5, "mine"),
    row("clean", 0.25, "infonce"),
    row("miue", 0.75, "infonce"),
    row("clean", 0.1, "nwj"),
    row("miue", math.nan, "nwj"),
  ]
  sentence = information.disagreement(rows)
  assert "sliced histogram (2.000 nats for miue, 2.000 for clean)" in sentence
  assert "infonce (0.750 nats for miue, 0.250 for clean)" in sentence
  assert "mine" not in sentence
  assert "nwj" not in sentence
  assert sentence.count(". ") == 0
  assert sentence.endswith(".")


def test_disagreement_of_an_older_measurement():
  rows = [{"method": "clean", "mi": 1.0}, {"method": "em", "mi": 1.5}]
  assert "the estimator (1.500 nats for em" in information.disagreement(rows)


def test_a_warning_is_said_once_with_its_rows():
  rows = [
    row("clean", 1.0, warnings=["Too few."]),
    row("miue", 1.0, warnings=["Too few.", "Too long."]),
  ]
  assert information.warnings(rows) == [
    "sliced histogram, clean; sliced histogram, miue: Too few.",
    "sliced histogram, miue: Too long.",
  ]


def test_settings_of_each_estimator_are_listed_once():
  measurement = {
    "settings": {"samples": 20},
    "rows": [
      row("clean", 1.0, settings={"inner": {"bins": 16}}),
      row("miue", 1.0, settings={"inner": {"bins": 16}}),
      row("miue", 1.0, "mine", settings={"width": 64}),
    ],
  }
  assert information.settings(measurement) == [
    ("samples", "20"),
    ("sliced histogram.inner.bins", "16"),
    ("mine.width", "64"),
  ]
  assert information.settings(None) == []


def test_settings_that_layers_share_are_listed_once():
  def of(layer, bins):
    return row("clean", 1.0, settings={"bins": bins}) | {"layer": layer}

  alike = {"rows": [of("Block_0", 16), of("Block_1", 16), of("features", 16)]}
  assert information.settings(alike) == [("sliced histogram.bins", "16")]
  apart = {"rows": [of("Block_0", 16), of("features", 9)]}
  assert information.settings(apart) == [
    ("sliced histogram of Block_0.bins", "16"),
    ("sliced histogram.bins", "9"),
  ]


def test_each_estimator_has_its_own_axis():
  rows = [row("clean", 2.0), row("miue", 1.0), row("clean", 30.0, "mine", std=None)]
  svg = figures.information_bars(rows)
  assert "sliced histogram: clean 2.000, miue 1.000; mine: clean 30.000" in svg
  assert svg.count(">sliced histogram<") == svg.count(">mine<") == 1
  assert "sliced histogram" not in figures.information_bars(rows[:2])


def theory(method, before, after, **changes):
  terms = {"before": TERMS | {"half_log_det": before}, "after": TERMS | {"half_log_det": after}}
  return {"method": method, "perturbations": None} | terms | changes


def test_theory_before_and_after():
  rows = [theory("clean", -40.0, -40.0), theory("miue", -41.0, -50.0)]
  columns, cells = information.theory_table({"theory": rows})
  dash = information.MISSING
  assert [len(line) for line in cells] == [len(columns)] * 3
  assert cells == [
    ["clean", "clean images", "-40.0", "0.500", dash, "3.2", "0.062"],
    ["miue", "clean images", "-41.0", "0.500", dash, "3.2", "0.062"],
    ["miue", "released images", "-50.0", "0.500", dash, "3.2", "0.062"],
  ]
  (sentence,) = information.theory_sentences({"theory": rows})
  assert "-50.0 nats for the released images of miue and -40.0 for clean ones" in sentence
  assert sentence.endswith("so this agrees.")


def test_rival_explanations_of_each_condition():
  separable = {"test_accuracy": 62.04, "train_accuracy": 99.5, "chance": 10.0}
  miue = {
    "perturbations": separable,
    "images": {"note": "Too few."},
    "class_means": {"before": 1.0, "after": 2.345},
    "learning": {"first_loss": 0.25, "epochs_to_half": None},
  }
  rows = [theory("clean", -40.0, -40.0), theory("miue", -41.0, -50.0, **miue)]
  columns, cells = information.rival_table({"theory": rows})
  dash = information.MISSING
  assert cells == [["miue", "62.0 / 99.5 (10.0)", dash, "1.00 to 2.35", "0.250", dash]]
  assert len(columns) == len(cells[0])
  assert information.rival_table(None)[1] == []


def test_spectra_are_means_over_classes():
  def spectrum(*values):
    return {"spectrum": list(values)}

  classes = [
    {"before": spectrum(4.0, 2.0), "after": spectrum(1.0, 0.5)},
    {"before": spectrum(8.0, 0.0), "after": spectrum(3.0, 0.0)},
  ]
  rows = [theory("clean", 0.0, 0.0), theory("miue", 0.0, 0.0, classes=classes)]
  found = information.spectra({"theory": rows})
  assert found == {"miue": {"before": [6.0, 1.0], "after": [2.0, 0.25]}}
  assert "for miue" in figures.spectra(found)
  assert figures.spectra({"miue": {"before": [0.0], "after": [0.0]}}) is None
  assert figures.spectra(information.spectra(None)) is None


def test_layers_are_named_and_drawn_in_their_order():
  rows = [
    row(method, mi, layer=layer)
    for method, high in (("clean", 2.0), ("miue", 1.0))
    for layer, mi in (("Block_0", high), ("Block_1", high / 2), ("features", high / 4))
  ]
  assert [line[:3] for line in information.cells(rows)][:3] == [
    ["clean", "sliced histogram of Block_0", "2.000"],
    ["clean", "sliced histogram of Block_1", "1.000"],
    ["clean", "sliced histogram", "0.500"],
  ]
  assert list(information.groups(rows)) == [
    "sliced histogram of Block_0",
    "sliced histogram of Block_1",
    "sliced histogram",
  ]
  svg = figures.information_layers(rows)
  assert "over Block_0, Block_1, features" in svg
  assert figures.information_layers(rows[2:3]) is None
  assert figures.information_layers([row("clean", 1.0)]) is None


def test_classes_of_a_poison_before_and_after():
  ends = {"before": TERMS, "after": TERMS | {"half_log_det": -50.0}}
  classes = [{"label": label, "samples": 9} | ends for label in range(30)]
  rows = [theory(method, 0.0, 0.0, classes=classes) for method in ("clean", "random", "miue")]
  columns, cells = information.class_table({"theory": rows})
  dash = information.MISSING
  assert len(cells) == information.CLASSES
  assert len(cells[3]) == len(columns)
  assert cells[3][:5] == ["miue", "3", "9", "-40.0 to -50.0", "0.500 to 0.500"]
  assert cells[3][5] == f"{dash} to {dash}"
  assert information.class_table(None)[1] == information.class_table({"theory": rows[:2]})[1] == []


def test_theory_that_does_not_agree():
  for after in (-39.0, -40.0, -40.01):
    rows = [theory("clean", -40.0, -40.0), theory("miue", -40.0, after)]
    (sentence,) = information.theory_sentences({"theory": rows})
    assert sentence.endswith("so this does not agree.")


def test_theory_that_was_not_measured():
  rows = [{"method": "miue", "note": "No class.", "perturbations": {"note": "Too few."}}]
  assert information.theory_table({"theory": rows})[1] == []
  assert information.theory_sentences({"theory": rows}) == [
    "Not measured for miue: No class.",
    "Not measured for miue: Too few.",
  ]
  assert information.theory_table(None)[1] == information.theory_sentences(None) == []


def test_bars_are_those_of_the_last_layer():
  rows = [
    row(method, value, estimator) | {"layer": layer}
    for layer, value in (("Block_0", 1.5), ("Block_1", 0.5))
    for method in ("clean", "miue")
    for estimator in ("sliced histogram", "sliced knn")
  ]
  svg = figures.information_bars(rows)
  assert svg.count("0.500") >= 4
  assert "1.500" not in svg
  assert "Block_0" not in svg
