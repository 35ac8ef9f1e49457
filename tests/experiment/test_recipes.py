"""What data sets and methods change, and what they may not."""

import dataclasses

import pytest

from miue_jax.experiment import recipes
from miue_jax.settings import config as configs
from miue_jax.settings import validation
from miue_jax.settings.config import Arena, Config
from miue_jax.settings.errors import UserError


def test_recipes_change_what_they_say_and_nothing_else():
  arena = Arena(
    methods=("em", "em_class"),
    recipes={"em_class": {"method": {"name": "em", "class_wise": True}, "model": {"width": 8}}},
  )
  config = Config(arena=arena)
  plain, changed = (recipes.for_method(config, name) for name in arena.methods)
  assert plain == dataclasses.replace(config, method=dataclasses.replace(config.method, name="em"))
  assert changed.method == dataclasses.replace(plain.method, class_wise=True)
  assert changed.model == dataclasses.replace(plain.model, width=8)
  assert changed.victim == config.victim


def test_a_data_set_changes_what_it_says_and_nothing_else():
  changes = {"data": {"source": "npz", "path": "x.npz"}, "arena": {"published": "cifar10"}}
  arena = Arena(methods=("em",), datasets={"plain": {}, "photos": changes}, seeds=(3,))
  config = Config(arena=arena)
  plain, photos = (recipes.for_dataset(config, name) for name in arena.datasets)
  alone = dataclasses.replace(arena, datasets={})
  named = dataclasses.replace(config.data, name="plain")
  assert plain == dataclasses.replace(config, data=named, arena=alone)
  assert photos.data == dataclasses.replace(named, name="photos", source="npz", path="x.npz")
  assert photos.arena == dataclasses.replace(alone, published="cifar10")
  assert dataclasses.replace(photos, data=plain.data, arena=plain.arena) == plain


@pytest.mark.parametrize(
  ("recipe", "words"),
  [
    ({"victim": {"width": 8}}, r"arena\.recipes\.em\.victim changes what all share"),
    ({"method": {"epohs": 8}}, r"arena\.recipes\.em\.method\.epohs; did you mean .*epochs"),
    ({"method": {"epochs": "8"}}, r"arena\.recipes\.em\.method\.epochs is '8' \(str\)"),
    ({"method": {"epochs": 0}}, r"'em' of the arena cannot be made: .*method\.epochs"),
    ({"method": 8}, r"arena\.recipes\.em\.method is 8"),
    (8, r"arena\.recipes\.em is 8"),
  ],
)
def test_a_wrong_recipe_is_named(recipe, words):
  config = Config(arena=Arena(methods=("em",), recipes={"em": recipe}))
  with pytest.raises(UserError, match=words):
    recipes.for_method(config, "em")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"seed": 3}, r"arena\.datasets\.x\.seed changes what all share"),
    ({"data": {"sauce": "npz"}}, r"arena\.datasets\.x\.data\.sauce; did you mean .*source"),
    ({"data": {"size": -1}}, r"Data set 'x' of the arena cannot be used: .*data\.size"),
    ({"arena": {"datasets": {"y": {}}}}, r"arena\.datasets\.x\.arena\.datasets.* holds no others"),
    ("digits", r"arena\.datasets\.x is 'digits'"),
  ],
)
def test_a_wrong_data_set_is_named(changes, words):
  config = Config(arena=Arena(methods=("em",), datasets={"x": changes}))
  with pytest.raises(UserError, match=words):
    recipes.for_dataset(config, "x")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-x", "report"])
def test_a_data_set_is_named_as_a_folder_may_be(name):
  settings = configs.default()
  settings.arena.methods = ("em",)
  settings.arena.datasets = {name: {}}
  with pytest.raises(UserError, match="letters"):
    validation.freeze(settings)
