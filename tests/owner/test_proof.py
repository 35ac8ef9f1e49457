"""Tests the verdict: which victim decides, and how uncertain its accuracy is."""

import numpy as np
import pytest

from miue_jax.owner import proof
from miue_jax.owner.proof import Trial
from miue_jax.report import verdict

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
  found = proof.judged(trials, TESTED)
  assert found.judgement == judgement
  assert f"recognises {published} %" in found.sentence
  assert "recognises 90 %" in found.sentence
  assert "100 pictures" in found.sentence
  assert "strong" in found.notes[0]
  assert (len(found.notes) > 1) == (judgement != verdict.PROTECTED)


def test_nothing_is_concluded_from_victims_that_learn_nothing():
  found = proof.judged([Trial("blind", 25, 29)], TESTED)
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
