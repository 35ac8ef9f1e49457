"""Tests that a plan states time, energy and cost, and repeats the verdict about the pictures."""

import numpy as np
import private_folder
import pytest
import toy_pictures

from miue_jax.owner import choose, estimate, patterns, plan, private
from miue_jax.owner.request import Request
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(
  ("price", "cost"), [(0.3, "0.06"), (0.001, "less than 0.01"), (0.0, "0.00"), (9000.0, "1,800.00")]
)
def test_a_plan_in_words_ends_with_the_latest_verdict(
  quick, photos, tmp_path, monkeypatch, said, price, cost
):
  hours = estimate.Estimate(3600.0, 1800.0, compiling=600.0, files=1200.0, memory=2e9)
  monkeypatch.setattr(estimate, "estimate", lambda *arguments: hours)
  store = private.Private(private.path_of(tmp_path / "out"))
  private_folder.write(store, photos, "NOT protected", "It learns.", "Add pictures.")
  plan.plan(photos, None, None, 0, 100.0, price)
  lines = said()
  assert any(line.startswith("Protecting takes about 2 hours. ") for line in lines)
  energy, *verdict = lines[-3:]
  assert energy.startswith(f"At 100 watts, that is 200 watt-hours of energy at a cost of {cost};")
  assert verdict == [
    f"The latest verdict about {tmp_path / 'out'}: NOT protected. It learns.",
    "  Add pictures.",
  ]


def test_a_plan_warns_of_larger_pictures_beforehand(quick, tmp_path, monkeypatch, said):
  for name in ("a", "bbb"):
    toy_pictures.toy(tmp_path / "photos", name, 4)
  monkeypatch.setattr(choose, "SMALL_SIDE", 19)  # the toy pictures have 20 pixels
  plan.plan(tmp_path / "photos", None, None, 0, 100.0, None)
  lines = said()
  assert lines.index(choose.LARGER) < lines.index("Measuring how long this machine takes ...")
  assert patterns.GRAY not in lines


def test_pictures_without_classes_are_planned_as_groups(quick, tmp_path, said):
  toy_pictures.toy(tmp_path, "loose", 12)
  plan.plan(tmp_path / "loose", None, None, 3, 100.0, None)
  found, advice, *_ = said()
  assert found.startswith("12 pictures without classes")
  assert "'group 1' has only 4 pictures" in advice
  with pytest.raises(UserError, match="12 pictures are too few; make fewer groups"):
    plan.plan(tmp_path / "loose", None, None, 7, 100.0, None)


def test_an_archive_is_planned_like_a_folder(quick, tmp_path, said):
  images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
  path = tmp_path / "toy.npz"
  np.savez(path, x_train=images, y_train=np.arange(20) % 2)
  store = private.Private(private.path_of(tmp_path / "out"))
  private_folder.write(store, store.rows / "toy.npz", "protected", "Nothing is learned.")
  plan.plan(path, None, None, 0, 100.0, None)
  lines = said()
  assert "20 pictures in 2 classes:" in lines[0]
  assert lines.index(patterns.GRAY) < lines.index("Measuring how long this machine takes ...")
  assert lines[-1] == f"The latest verdict about {tmp_path / 'out'}: Protected. Nothing is learned."


@pytest.mark.parametrize("places", [("/proc/out", "out.key"), ("out", "/proc/out.key")])
def test_places_that_cannot_be_written_are_refused_before_the_measurement(
  photos, tmp_path, said, places
):
  out, key = (tmp_path / place for place in places)
  request, asked = Request(photos, out, key=key), []
  found = plan.surveyed(request, False)
  said()
  with pytest.raises(UserError, match="Cannot write /proc/out"):
    plan.chosen(request, found, asked.append)
  assert (said(), asked) == ([], [])
