"""Tests the verdict: which victim decides, and how uncertain its accuracy is."""

import numpy as np
import pytest

from miue_jax.owner import choose, proof
from miue_jax.owner.proof import Trial
from miue_jax.report import verdict

COUNTS = {"a": 50, "b": 50}
CHOICE = choose.choose(COUNTS, "medium", 32, 0)
TESTED = np.repeat(np.arange(4), 25)  # guessing gives 25 %


def test_wilson_interval():
  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
  assert proof.interval(100 * 81 / 263, 263) == pytest.approx((25.53, 36.62), abs=0.01)
  assert proof.interval(0.0, 20) == pytest.approx((0.0, 16.11), abs=0.01)


@pytest.mark.parametrize(
  ("published", "judgement"),
  [(30, verdict.PROTECTED), (50, verdict.PARTLY), (80, verdict.NOT_PROTECTED)],
)
def test_the_strongest_victim_decides(published, judgement):
  trials = [Trial("weak", 26, 90), Trial("strong", published, 85), Trial("blind", 29, 28)]
  found = proof.judged(CHOICE, trials, TESTED)
  assert found.judgement == judgement
  assert f"recognises {published} %" in found.sentence
  assert "recognises 90 %" in found.sentence
  assert "100 pictures" in found.sentence
  assert "strong" in found.notes[0]
  assert (len(found.notes) > 1) == (judgement != verdict.PROTECTED)


@pytest.mark.parametrize(
  ("strength", "side", "recompressed", "victim", "advice"),
  [
    ("low", 32, False, "one", "with --strength medium (which is seen more easily), or add"),
    ("medium", 32, False, "one", "Do not rely on it: add pictures."),
    (
      "medium",
      32,
      False,
      "one and sees the whole after JPEG 75",
      "with --recompressed, or add",
    ),
    ("medium", 32, True, "one and sees the whole after JPEG 75", "on it: add pictures."),
    ("medium", 64, False, "one and sees the whole after JPEG 75", "with --strength high (which"),
    ("medium", 64, False, "one", "--strength high (which is seen more easily), or add pictures"),
    ("high", 32, False, "one", "Do not rely on it: add pictures."),
  ],
)
def test_what_to_do_next_is_something_that_was_not_done(
  strength, side, recompressed, victim, advice
):
  choice = choose.choose(COUNTS, strength, side, 0, recompressed=recompressed)
  found = proof.judged(choice, [Trial(victim, 80, 85)], TESTED)
  assert advice in found.notes[-1]


@pytest.mark.parametrize(
  ("strength", "published", "advice"),
  [
    ("low", 80, "with --strength medium (which is seen more easily) and without --time, or"),
    ("high", 80, "Do not rely on it: protect into a new folder without --time, or add pictures."),
    ("high", 55, "Protect into a new folder without --time."),
  ],
)
def test_only_who_limited_the_time_is_told_not_to(strength, published, advice):
  choice = choose.choose(COUNTS, strength, 32, 0)
  trials = [Trial("one", published, 85)]
  for seconds, limited in ((50, True), (200, False)):
    fitting = choose.within(choice, making=50, proving=50, seconds=seconds)
    assert choose.Choice.restored(fitting.stored()) == fitting
    note = proof.judged(fitting, trials, TESTED).notes[-1]
    assert (advice in note) == ("--time" in note) == limited


def test_nothing_is_concluded_from_victims_that_learn_nothing():
  found = proof.judged(CHOICE, [Trial("blind", 25, 29)], TESTED)
  assert found.judgement == verdict.UNKNOWN
  assert "29 %" in found.sentence


def test_guessing_names_the_most_frequent_class():
  assert proof.chance_of(np.array([0, 0, 0, 1])) == 75


def test_every_class_is_held_out():
  labels = np.repeat([0, 1, 2], [50, 10, 5])
  chosen = proof.held_out(labels, 3)
  assert np.bincount(labels[chosen]).tolist() == [10, 2, 1]


def test_unequal_classes_are_tested_equally():
  labels = np.repeat([0, 1], [220, 580])
  chosen = proof.held_out(labels, 3)
  assert np.bincount(labels[chosen]).tolist() == [44, 44]
  assert proof.chance_of(labels[chosen]) == 50
  assert (chosen == proof.held_out(labels, 3)).all()
  assert np.flatnonzero(chosen)[-1] > 400  # not those whose names come first
