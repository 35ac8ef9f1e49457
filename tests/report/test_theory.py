"""Terms of the theory, other explanations, and their course during generation."""

import pytest

from miue_jax import report
from miue_jax.report import theory
from miue_jax.report.tables import MISSING

TERMS = {
  "half_log_det": -40.0,
  "intra_cosine": 0.5,
  "inter_cosine": None,
  "effective_rank": 3.25,
  "divergence": 0.0625,
}


def measured(method, before, after, **changes):
  terms = {"before": TERMS | {"half_log_det": before}, "after": TERMS | {"half_log_det": after}}
  return {"method": method, "perturbations": None} | terms | changes


def test_terms_before_and_after():
  rows = [measured("clean", -40.0, -40.0), measured("miue", -41.0, -50.0)]
  columns, cells = theory.terms(rows)
  assert [len(line) for line in cells] == [len(columns)] * 3
  assert cells == [
    ["clean", "clean images", "-40.0", "0.500", MISSING, "3.2", "0.062"],
    ["miue", "clean images", "-41.0", "0.500", MISSING, "3.2", "0.062"],
    ["miue", "released images", "-50.0", "0.500", MISSING, "3.2", "0.062"],
  ]
  (sentence,) = theory.sentences(rows)
  assert "-50.0 nats for the released images of miue and -40.0 for clean ones" in sentence
  assert sentence.endswith("so this agrees.")


def test_other_explanations_of_each_condition():
  separable = {"test_accuracy": 62.04, "train_accuracy": 99.5, "chance": 10.0}
  miue = {
    "perturbations": separable,
    "images": {"note": "Too few."},
    "class_means": {"before": 1.0, "after": 2.345},
    "learning": {"first_loss": 0.25, "epochs_to_half": None},
  }
  columns, cells = theory.others(
    [measured("clean", -40.0, -40.0), measured("miue", -41.0, -50.0, **miue)]
  )
  assert cells == [["miue", "62.0 / 99.5 (10.0)", MISSING, "1.00 to 2.35", "0.250", MISSING]]
  assert len(columns) == len(cells[0])
  assert theory.others([])[1] == []


def test_spectra_are_means_over_classes(monkeypatch):
  drawn = []
  monkeypatch.setattr(theory.figures, "line_charts", lambda charts: drawn.extend(charts))

  def spectrum(*values):
    return {"spectrum": list(values)}

  classes = [
    {"before": spectrum(4.0, 2.0), "after": spectrum(1.0, 0.5)},
    {"before": spectrum(8.0, 0.0), "after": spectrum(3.0, 0.0)},
  ]
  theory.spectra([measured("clean", 0.0, 0.0), measured("miue", 0.0, 0.0, classes=classes)])
  (chart,) = drawn
  for lines, expected in ((chart.dashed, [6.0, 1.0]), (chart.lines, [2.0, 0.25])):
    assert list(lines) == ["miue"]
    assert [(rank, value.mean) for rank, value in lines["miue"]] == list(enumerate(expected, 1))


def test_spectra_without_a_positive_value_are_not_drawn():
  ends = {"spectrum": [0.0]}
  rows = [measured("miue", 0.0, 0.0, classes=[{"before": ends, "after": ends}])]
  assert theory.spectra(rows) is theory.spectra([]) is None


def test_classes_of_a_poison_before_and_after():
  ends = {"before": TERMS, "after": TERMS | {"half_log_det": -50.0}}
  classes = [{"label": label, "samples": 9} | ends for label in range(30)]
  rows = [measured(method, 0.0, 0.0, classes=classes) for method in ("clean", "random", "miue")]
  columns, cells = theory.classes(rows)
  assert len(cells) == theory.CLASSES
  assert len(cells[3]) == len(columns)
  assert cells[3][:5] == ["miue", "3", "9", "-40.0 to -50.0", "0.500 to 0.500"]
  assert cells[3][5] == f"{MISSING} to {MISSING}"
  assert theory.classes([])[1] == theory.classes(rows[:2])[1] == []


@pytest.mark.parametrize("after", [-39.0, -40.0, -40.01])
def test_a_term_that_is_not_smaller_does_not_agree(after):
  rows = [measured("clean", -40.0, -40.0), measured("miue", -40.0, after)]
  (sentence,) = theory.sentences(rows)
  assert sentence.endswith("so this does not agree.")


def test_theory_that_was_not_measured():
  rows = [{"method": "miue", "note": "No class.", "perturbations": {"note": "Too few."}}]
  assert theory.terms(rows)[1] == []
  assert theory.sentences(rows) == [
    "Not measured for miue: No class.",
    "Not measured for miue: Too few.",
  ]
  assert theory.terms([])[1] == theory.sentences([]) == []


FALLING = {
  "objective": [1.0, 0.5],
  "observed_epoch": [2, 4, 6, 8, 10],
  "information": [1.5, 1.25, 1.0, 0.5, 0.625],
  "half_log_det": [-10.0, -20.0, -30.0, -45.0, -40.0],
}


def test_curves_that_fall_together():
  # Both have ranks 5, 4, 3, 1, 2.
  found = theory.course(FALLING)
  assert found["sentence"] == (
    "From epoch 2 to epoch 10, mutual information goes from 1.500 to 0.625 nats and half ln det "
    "from -10.0 to -40.0. They fall together (Spearman's rank correlation 1.00, n = 5 epochs; "
    "epochs depend on each other, so this is no test of significance)."
  )
  assert found["table"][1][3] == ["8", "0.500", "-45.0"]


@pytest.mark.parametrize(
  ("information", "words"),
  [
    # Ranks 1 to 5 against 5, 4, 3, 1, 2: 1 - 6 (16 + 4 + 0 + 9 + 9) / (5 * 24) = -0.9.
    ([1.0, 2.0, 3.0, 4.0, 5.0], "They do not fall together (Spearman's rank correlation -0.90"),
    # The ranks agree, but the last value is higher than the first.
    ([3.0, 2.0, 1.5, 1.0, 9.0], "They do not fall together"),
    ([1.0] * 5, "One of them never changes, so they do not fall together (n = 5 epochs)."),
  ],
)
def test_curves_that_do_not_fall_together(information, words):
  assert words in theory.course(FALLING | {"information": information})["sentence"]


def test_few_epochs_are_shown_and_not_judged():
  three = theory.course({name: values[:3] for name, values in FALLING.items()})
  assert "too little to say whether they fall together (n = 3)" in three["sentence"]
  assert three["drawing"].startswith("<svg")
  one = theory.course({name: values[:1] for name, values in FALLING.items()})
  assert "(n = 1)" in one["sentence"]
  assert one["drawing"] is None


@pytest.mark.parametrize(
  "history",
  [
    None,
    "damaged",
    {"objective": [1.0]},
    FALLING | {"information": []},
    FALLING | {"information": [1.0]},
    FALLING | {"half_log_det": [1.0, 2.0, None, 4.0, 5.0]},
  ],
)
def test_without_observations_there_is_no_course(history):
  assert theory.course(history) is None


@pytest.mark.parametrize("history", [FALLING, {"objective": [1.0]}])
def test_the_page_draws_both_curves_or_leaves_no_trace(history):
  files = report.Experiment([], {"name": "digits"}, "", {"history": history}).files
  page, text = files["index.html"], files["report.md"]
  shown = history is FALLING
  assert ("fall together" in page) == ("fall together" in text) == shown
  assert (">While the poison was made</h3>" in page) == shown
  assert ("### While the poison was made" in text) == shown
  assert page.count("<svg") == shown
  if shown:
    assert ">half ln det (nats)</text>" in page
    assert ">epoch of generation</text>" in page
    assert "0.625" in text
