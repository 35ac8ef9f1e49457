"""Tests what is chosen for folders of pictures."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from miue_jax.owner import archive, choose, load
from miue_jax.pictures.survey import Found, survey
from miue_jax.settings.errors import UserError


def test_few_pictures_take_more_epochs():
  few, many = (choose.choose({"a": n, "b": n}, "medium", 32, 0) for n in (50, 2000))
  assert few.method.epochs > many.method.epochs


@pytest.mark.parametrize(("strength", "budget"), [("low", 4), ("medium", 8), ("high", 16)])
def test_strengths(strength, budget):
  assert choose.choose({"a": 9, "b": 9}, strength, 32, 0).method.epsilon == budget / 255


@pytest.mark.parametrize("count", [2, 3, 5, 20, 63, 64, 65, 300, 5000])
def test_batches_are_never_larger_than_the_pictures(count):
  choice = choose.choose({"a": count, "b": count}, "low", 32, 0)
  assert choice.method.source.batch_size <= 2 * count
  assert choice.method.batch_size % choice.method.source.batch_size == 0
  assert choice.method.batch_size < 2 * count + choice.method.source.batch_size
  for victim in choice.victims:
    assert choice.fit(victim, 2 * count).batch_size <= 2 * count


def test_a_choice_survives_the_key():
  for side, gray in ((28, True), (28, False), (100, True), (100, False)):
    choice = choose.choose({"a": 30, "b": 40}, "high", side, 7, gray=gray)
    stored = json.loads(json.dumps(choice.stored()))
    assert choose.Choice.restored(stored) == choice
  stored.pop("patterned")
  for gray in (False, True):  # as older versions wrote it
    assert choose.Choice.restored(stored | {"gray": gray}).patterned == gray
  del stored["gray"], stored["size"], stored["floor"], stored["block"]
  assert choose.Choice.restored(stored) == dataclasses.replace(
    choice, gray=False, patterned=False, block=1, size=32, floor=0.5
  )


@pytest.mark.parametrize(
  ("side", "gray", "patterned", "block", "floor"),
  [
    (32, False, False, 1, 1.0),
    (32, True, True, 1, 1.0),
    (33, False, True, 2, 1.0),
    (129, False, True, 2, 0.5),
    (4000, True, True, 2, 1.0),
  ],
)
def test_gray_and_larger_pictures_get_patterns(side, gray, patterned, block, floor):
  choice = choose.choose({"a": 30, "b": 40}, "medium", side, 7, gray=gray)
  assert (choice.patterned, choice.block, choice.floor) == (patterned, block, floor)


def test_other_patterns_are_not_mixed_with_those_of_today():
  stored = choose.choose({"a": 50, "b": 50}, "medium", 28, 0, gray=True).stored()
  assert choose.Choice.restored(stored).patterned
  with pytest.raises(UserError, match="other patterns of classes"):
    choose.Choice.restored(stored | {"patterns": "signs"})


@pytest.mark.parametrize(
  ("side", "count", "size", "seen"),
  [(0, 9, 8, 8), (28, 9, 28, 28), (48, 9, 48, 48), (4000, 9, 64, 64), (48, 2500, 48, 48)],
)
def test_perturbations_are_as_large_as_what_victims_see(side, count, size, seen):
  choice = choose.choose({"a": count, "b": count}, "medium", side, 0)
  assert (choice.size, choice.seen) == (size, seen)


@pytest.mark.parametrize("values", [{}, {"method": 3}, {"method": {"name": "none"}}])
def test_settings_of_a_key_are_not_trusted(values):
  with pytest.raises(UserError, match="another OUT"):
    choose.Choice.restored(values)


def test_one_class_is_refused_with_what_to_do():
  with pytest.raises(UserError, match="or give --labels"):
    choose.choose({"": 20}, "medium", 32, 0)


def test_time_is_divided_in_proportion():
  choice = choose.choose({"a": 50, "b": 50}, "medium", 32, 0)
  half = choose.within(choice, 60.0, 40.0, 50.0)
  assert half.method.epochs == choice.method.epochs // 2
  assert [v.epochs for v in half.victims] == [v.epochs // 2 for v in choice.victims]
  assert choose.within(choice, 60.0, 40.0, 1000.0) == choice
  shortest = choose.within(choice, 60.0, 40.0, 0.0).victims
  assert len(shortest) == len(set(shortest)) == 2
  assert choose.within(choice, 60.0, 40.0, 0.0).method.epochs > 0


def test_advice_names_the_smallest_class():
  assert choose.advice({"a": 200, "b": 300}, 32) == []
  (few,) = choose.advice({"a": 200, "b": 30}, 32)
  assert "'b' has only 30 pictures" in few
  assert few.endswith("from originals. The verdict states how uncertain it is.")
  few, narrow = choose.advice({"a": 4, "b": 30}, 32, narrow=True)
  assert few.endswith("from originals. With fewer than 5 nothing can be tested.")
  assert "stretch them to all 16 bits first" in narrow


def test_advice_warns_of_larger_pictures_however_many_there_are():
  (larger,) = choose.advice({"a": 5000, "b": 5000}, 33)
  assert "pictures of more than 32 pixels a side were protected in part at most" in larger


def test_a_few_pictures_tell_side_colour_and_range(tmp_path):
  for name, low, high in (("a", 0, 4095), ("b", 0, 60000)):
    values = np.linspace(low, high, 12 * 20).reshape(12, 20).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"{name}.png")
  found = [Found(f"{name}.png", "", None, name) for name in "ab"]
  assert load.sampled(tmp_path, found) == load.Sampled(12, True, True)
  assert load.sampled(tmp_path, found[1:]) == load.Sampled(12, True, False)
  assert load.sampled(tmp_path, []) == load.Sampled(0, False, False)


def test_pictures_of_every_class_tell_the_colour(tmp_path):
  Image.new("L", (12, 9), 70).save(tmp_path / "a.png")
  Image.new("RGB", (12, 9), "red").save(tmp_path / "b.png")
  found = [Found(f"{name}.png", name, None, name) for name in 30 * "a" + 9 * "b"]
  assert load.sampled(tmp_path, found[:30]).gray
  assert not load.sampled(tmp_path, found).gray


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_gray_pictures_with_three_channels_are_gray(tmp_path, suffix):
  found = []
  for number in range(20):
    values = np.random.default_rng(number).integers(0, 255, (9, 12), np.uint8)
    Image.fromarray(values).convert("RGB").save(tmp_path / f"{number}.{suffix}")
    found.append(Found(f"{number}.{suffix}", "", None, str(number)))
  assert load.sampled(tmp_path, found) == load.Sampled(9, True, False)
  Image.effect_noise((12, 9), 50).convert("RGBA").save(tmp_path / f"3.{suffix}", "PNG")
  assert load.sampled(tmp_path, found).gray
  Image.new("RGB", (12, 9), "red").save(tmp_path / f"17.{suffix}")
  assert not load.sampled(tmp_path, found).gray


def test_an_archive_of_gray_images_with_three_channels_is_gray(tmp_path):
  images = np.random.default_rng(0).integers(0, 255, (6, 9, 9, 1), np.uint8).repeat(3, axis=3)
  np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(6) % 2)
  with archive.as_folder(tmp_path / "a.npz") as folder:
    assert load.sampled(folder, survey(folder).pictures) == load.Sampled(9, True, False)


def test_another_method_is_one_constant(monkeypatch):
  monkeypatch.setattr(choose, "METHOD", "em")
  assert choose.choose({"a": 50, "b": 50}, "medium", 32, 0).method.name == "em"


@pytest.mark.parametrize(
  ("side", "gray", "survives"), [(32, False, True), (33, False, False), (28, True, False)]
)
def test_small_pictures_in_colour_can_be_made_to_survive_jpeg(side, gray, survives):
  counts = {"a": 50, "b": 50}
  choice = choose.choose(counts, "medium", side, 0, gray=gray, recompressed=True)
  assert choice.recompressed == survives
  assert not choose.choose(counts, "medium", side, 0, gray=gray).recompressed
  if survives:
    assert choice.method.transformations == ("none", "jpeg75")
  assert choose.Choice.restored(json.loads(json.dumps(choice.stored()))) == choice
