"""What the report says of information during generation."""

import pytest

from miue_jax.report import course, page
from miue_jax.report.content import gather

FALLING = {
  "objective": [1.0, 0.5],
  "observed_epoch": [2, 4, 6, 8, 10],
  "information": [1.5, 1.25, 1.0, 0.5, 0.625],
  "half_log_det": [-10.0, -20.0, -30.0, -45.0, -40.0],
}


def test_curves_that_fall_together():
  # Both have ranks 5, 4, 3, 1, 2.
  found = course.observed(FALLING)
  assert course.sentence(found) == (
    "Over epochs 2 to 10 mutual information goes from 1.500 to 0.625 nats and half ln det from "
    "-10.0 to -40.0. They fall together (Spearman's rank correlation 1.00, n = 5 epochs; epochs "
    "follow one another, so this is no test of significance)."
  )
  assert course.table(found)[1][3] == ["8", "0.500", "-45.0"]


@pytest.mark.parametrize(
  ("information", "words"),
  [
    # Ranks 1 to 5 against 5, 4, 3, 1, 2: 1 - 6 (16 + 4 + 0 + 9 + 9) / (5 * 24) = -0.9.
    ([1.0, 2.0, 3.0, 4.0, 5.0], "They do not fall together (Spearman's rank correlation -0.90"),
    # In step, but higher at the end than at the start.
    ([3.0, 2.0, 1.5, 1.0, 9.0], "They do not fall together"),
    ([1.0] * 5, "One of them never changes, so they do not fall together (n = 5 epochs)."),
  ],
)
def test_curves_that_do_not(information, words):
  assert words in course.sentence(course.observed(FALLING | {"information": information}))


def test_few_epochs_are_shown_and_not_judged():
  three = {name: values[:3] for name, values in FALLING.items()}
  assert "too little to say whether they fall together (n = 3)" in course.sentence(
    course.observed(three)
  )
  assert course.curves(course.observed(three)).startswith("<svg")
  one = course.observed({name: values[:1] for name, values in FALLING.items()})
  assert "(n = 1)" in course.sentence(one)
  assert course.curves(one) is None


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
def test_without_observations_nothing_is_said(history):
  assert course.observed(history) is None
  assert course.sentence(None) is course.curves(None) is None


@pytest.mark.parametrize("history", [FALLING, {"objective": [1.0]}])
def test_the_page_draws_both_curves_or_leaves_no_trace(history):
  content = gather([], {"name": "digits"}, "", {"history": history}, None)
  html, markdown = page.html(content, None), page.markdown(content)
  shown = history is FALLING
  assert ("fall together" in html) == ("fall together" in markdown) == shown
  assert ('id="course-' in html) == (f"### {course.TITLE}" in markdown) == shown
  if shown:
    assert "half ln det (nats)" in html
    assert "epoch of generation" in html
    assert "0.625" in markdown
