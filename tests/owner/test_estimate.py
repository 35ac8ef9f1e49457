"""Tests estimates of time and memory, on toy pictures and small networks."""

import dataclasses
import json

import pytest
from protections import files, run
from toy_pictures import toy

from miue_jax.machine import room
from miue_jax.owner import choose, estimate, protect
from miue_jax.owner.request import Request
from miue_jax.pictures import survey
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(
  ("seconds", "said"),
  [
    (0, "less than a minute"),
    (49, "less than a minute"),
    (50, "about 1 minute"),
    (25 * 60, "about 25 minutes"),
    (5400, "about 2 hours"),
    (2.6 * 86400, "about 3 days"),
  ],
)
def test_durations_in_words(seconds, said):
  assert estimate.duration(seconds) == said


def test_fewer_epochs_take_less_time_but_compile_and_read_as_much():
  choice = choose.choose({"a": 500, "b": 500}, "medium", 32, 0)
  method = dataclasses.replace(choice.method, epochs=choice.method.epochs // 2)
  victims = tuple(dataclasses.replace(v, epochs=3 * v.epochs) for v in choice.victims)
  other = dataclasses.replace(choice, method=method, victims=victims)
  expected = estimate.Estimate(100.0, 50.0, 20.0, 10.0, 1e9).of_epochs(choice, other)
  assert expected == estimate.Estimate(50.0, 150.0, 20.0, 10.0, 1e9)
  assert expected.seconds == 230.0


def test_additions_take_as_long_as_their_part_of_the_first_protection_and_a_new_test():
  choice = choose.choose({"a": 500, "b": 500}, "medium", 32, 0)
  first = estimate.Estimate(100.0 * choice.method.epochs, 50.0, 20.0, 10.0, 1e9)
  values = json.loads(json.dumps(first.stored(1000)))
  found = estimate.of_additions(values, choice, 44, 256, 1100)
  assert found == estimate.Estimate(pytest.approx(240.0), pytest.approx(55.0), 20.0, 11.0, 1e9)
  for damaged in ({}, 3, {**values, "pictures": 0}, {**values, "making": "long"}):
    assert estimate.of_additions(damaged, choice, 44, 256, 1100) is None


@pytest.mark.long
def test_an_estimate_grows_with_epochs_and_pixels(tmp_path, quick_compiler, monkeypatch):
  monkeypatch.setattr(choose, "SMALL", {"name": "small_cnn", "width": 2, "normalise": "none"})
  for name in ("a", "b"):
    toy(tmp_path / "photos", name, 8)
  pictures = survey.survey(tmp_path / "photos").pictures
  choice = choose.choose({"a": 8, "b": 8}, "medium", 32, 0)
  victims = (choose.Victim("a linear model", "linear", 1, 10),)
  choice = dataclasses.replace(choice, victims=victims)
  estimate.start(choice, 16)
  found = estimate.estimate(choice, tmp_path / "photos", pictures, 2)
  assert min(found.making, found.proving, found.compiling, found.files) > 0
  assert 1e8 < found.memory < room.limit()
  twice = tuple(dataclasses.replace(v, epochs=20) for v in victims)
  more = found.of_epochs(choice, dataclasses.replace(choice, victims=twice))
  assert more.proving == pytest.approx(2 * found.proving)
  # Four pictures of a class are too few for a test.
  fewer = estimate.estimate(choice, tmp_path / "photos", pictures[4:], 2)
  assert fewer.proving == 0
  assert "test" not in fewer.describe()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_additions_that_take_long_are_asked_about(photos, tmp_path, monkeypatch, said):
  out = tmp_path / "out"
  hours = estimate.Estimate(3600.0, 3600.0, 60.0, 60.0, 2e9)
  monkeypatch.setattr(estimate, "estimate", lambda *arguments: hours)
  run(photos, out)
  before = files(out)

  def refuse(question):
    raise UserError(question)

  toy(photos, "a", 1, start=10)
  with pytest.raises(UserError, match=r"Add 1 picture to .*out\?"):
    protect.protect(Request(photos, out, seconds=600), refuse)
  line, limit = said()[-2:]
  assert limit == "That is more than --time, which limits only the first protection."
  assert line.startswith("Adding 1 picture and testing all 21 takes about ")
  assert "the test about 63 minutes" in line
  assert files(out) == before
  (photos / "a" / "10.png").unlink()
  protect.protect(Request(photos, out), refuse)  # nothing is added
