"""The rule at its borders, and what the sentence and the notes say."""

import math

import pytest

from miue_jax.report import verdict as lib
from miue_jax.report.aggregate import aggregate


def judged(rows, classes=10, method="miue"):
  return lib.verdict(aggregate(rows), method, classes)


@pytest.fixture
def rows_of(make_row):
  def build(**accuracies):
    return [make_row(m, a, s) for m, values in accuracies.items() for s, a in enumerate(values)]

  return build


@pytest.mark.parametrize(
  ("accuracy", "judgement"),
  [
    (9.0, lib.PROTECTED),  # below chance
    (10 + 0.25 * 80, lib.PROTECTED),  # exactly a quarter of the 80 points above chance
    (10 + 0.26 * 80, lib.PARTLY),
    (10 + 0.75 * 80, lib.PARTLY),
    (10 + 0.76 * 80, lib.NOT_PROTECTED),
    (95.0, lib.NOT_PROTECTED),
  ],
)
def test_the_rule_at_its_borders(rows_of, accuracy, judgement):
  assert judged(rows_of(clean=[90.0], miue=[accuracy])).judgement == judgement


def test_the_same_numbers_mean_more_with_two_classes(rows_of):
  # 60 % is chance plus 10 of 45 points with two classes, chance plus 50 of 85 with ten.
  rows = rows_of(clean=[95.0], miue=[60.0])
  assert judged(rows, classes=2).judgement == lib.PROTECTED
  assert judged(rows, classes=10).judgement == lib.PARTLY


def test_the_sentence_states_both_sides_the_noise_and_the_number_of_runs(rows_of):
  rows = rows_of(clean=[96.0, 97.0, 98.0], miue=[10.0, 12.0, 14.0], random=[95.5, 96.5, 97.5])
  assert judged(rows).sentence == (
    "small_cnn, trained on digits protected by miue, classifies 12.0 % ± 2.0 of the test images "
    "correctly. Trained on the original images, it classifies 97.0 % ± 1.0 (3 training runs). "
    "Random noise of the same budget leaves 96.5 % ± 1.0."
  )


def test_one_seed_has_no_spread_and_a_note(rows_of):
  verdict = judged(rows_of(clean=[97.0], miue=[12.0]))
  assert "±" not in verdict.sentence
  assert "(1 training run)" in verdict.sentence
  assert any("only one training run" in note for note in verdict.notes)


def test_without_clean_rows_nothing_can_be_concluded(rows_of):
  verdict = judged(rows_of(miue=[12.0]))
  assert verdict.judgement == lib.UNKNOWN
  assert "No network was trained on the original images." in verdict.sentence


@pytest.mark.parametrize("poisoned", [[], [math.nan]])
def test_without_a_protected_victim_nothing_can_be_concluded(rows_of, poisoned):
  verdict = judged(rows_of(clean=[97.0], random=[96.0], miue=poisoned))
  assert verdict.judgement == lib.UNKNOWN


def test_a_clean_victim_at_chance_proves_nothing(rows_of):
  verdict = judged(rows_of(clean=[12.0], miue=[10.0]))
  assert verdict.judgement == lib.UNKNOWN
  assert "within 5 points of guessing (10.0 %)" in verdict.sentence


@pytest.mark.parametrize(("random", "noted"), [(94.0, False), (93.0, True)])
def test_random_noise_that_costs_more_than_three_points_has_a_note(rows_of, random, noted):
  notes = judged(rows_of(clean=[97.0], miue=[12.0], random=[random])).notes
  assert any("Random noise of the same budget alone" in note for note in notes) is noted


def test_always_naming_the_largest_class_counts_as_nothing_learned(make_row):
  rows = [
    make_row("clean", 95.0, balanced_accuracy=92.0),
    make_row("miue", 90.0, balanced_accuracy=50.0),  # nine in ten images are of one class
  ]
  verdict = judged(rows, classes=2)
  assert verdict.judgement == lib.PROTECTED
  assert "50.0 % of the test images correctly (balanced accuracy)" in verdict.sentence


def test_an_early_peak_has_a_note(make_row):
  rows = [make_row("clean", 97.0), make_row("miue", 12.0, peak_test_accuracy=90.0)]
  verdict = judged(rows)
  assert verdict.judgement == lib.PROTECTED
  assert any("best epoch" in n and lib.NOT_PROTECTED in n for n in verdict.notes)


def test_the_weakest_setting_decides(make_row):
  rows = []
  for defence, accuracy in (("none", 12.0), ("jpeg", 85.0), ("gray", 50.0)):
    rows += [make_row("clean", 95.0, defence=defence), make_row("miue", accuracy, defence=defence)]
  verdict = judged(rows)
  assert verdict.judgement == lib.NOT_PROTECTED
  assert "small_cnn with the defence jpeg," in verdict.sentence
  assert any("weakest of 3" in note for note in verdict.notes)


def test_settings_without_a_sound_clean_side_are_counted(make_row):
  rows = [make_row("clean", 95.0), make_row("miue", 12.0)]
  rows += [make_row("clean", 11.0, defence="gray"), make_row("miue", 12.0, defence="gray")]
  rows += [make_row("miue", 12.0, defence="jpeg")]
  notes = judged(rows).notes
  assert any(note.startswith("2 pair(s) of network and defence were not judged") for note in notes)


def test_a_clean_side_without_balanced_accuracy_compares_accuracies(make_row):
  rows = [make_row("clean", 95.0, balanced_accuracy=None), make_row("miue", 12.0)]
  rows[1]["balanced_accuracy"] = 50.0
  assert "classifies 12.0 %" in judged(rows).sentence


def test_different_training_lengths_have_a_note(make_row):
  rows = [make_row("clean", 95.0, epochs=30), make_row("miue", 12.0, epochs=3)]
  assert any("different numbers of epochs" in note for note in judged(rows).notes)


def test_an_unknown_number_of_classes_has_a_note_and_is_stricter(rows_of):
  rows = rows_of(clean=[90.0], miue=[30.0])
  assert judged(rows, classes=10).judgement == lib.PROTECTED
  verdict = judged(rows, classes=None)
  assert verdict.judgement == lib.PARTLY
  assert any("number of classes is not recorded" in note for note in verdict.notes)
