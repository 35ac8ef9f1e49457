"""What data sets and methods change, and what they may not."""

import dataclasses

import pytest

from miue_jax.experiment import recipes
from miue_jax.settings import config as configs
from miue_jax.settings import validation
from miue_jax.settings.config import Compare, Config
from miue_jax.settings.errors import UserError


def test_recipes_change_what_they_say_and_nothing_else():
  compare = Compare(
    methods=("em", "em_class"),
    recipes={"em_class": {"method": {"name": "em", "class_wise": True}, "model": {"width": 8}}},
  )
  config = Config(compare=compare)
  plain, changed = (recipes.for_method(config, name) for name in compare.methods)
  assert plain == dataclasses.replace(config, method=dataclasses.replace(config.method, name="em"))
  assert changed.method == dataclasses.replace(plain.method, class_wise=True)
  assert changed.model == dataclasses.replace(plain.model, width=8)
  assert changed.victim == config.victim


def test_a_data_set_changes_what_it_says_and_nothing_else():
  changes = {"data": {"source": "npz", "path": "x.npz"}, "compare": {"published": "cifar10"}}
  compare = Compare(methods=("em",), datasets={"plain": {}, "photos": changes}, seeds=(3,))
  config = Config(compare=compare)
  plain, photos = (recipes.for_dataset(config, name) for name in compare.datasets)
  alone = dataclasses.replace(compare, datasets={})
  named = dataclasses.replace(config.data, name="plain")
  assert plain == dataclasses.replace(config, data=named, compare=alone)
  assert photos.data == dataclasses.replace(named, name="photos", source="npz", path="x.npz")
  assert photos.compare == dataclasses.replace(alone, published="cifar10")
  assert dataclasses.replace(photos, data=plain.data, compare=plain.compare) == plain


@pytest.mark.parametrize(
  ("recipe", "words"),
  [
    ({"victim": {"width": 8}}, r"compare\.recipes\.em\.victim changes what all share"),
    ({"method": {"epohs": 8}}, r"compare\.recipes\.em\.method\.epohs; did you mean .*epochs"),
    ({"method": {"epochs": "8"}}, r"compare\.recipes\.em\.method\.epochs is '8' \(str\)"),
    ({"method": {"epochs": 0}}, r"'em' of the comparison cannot be made: .*method\.epochs"),
    ({"method": 8}, r"compare\.recipes\.em\.method is 8"),
    (8, r"compare\.recipes\.em is 8"),
  ],
)
def test_a_wrong_recipe_is_named(recipe, words):
  config = Config(compare=Compare(methods=("em",), recipes={"em": recipe}))
  with pytest.raises(UserError, match=words):
    recipes.for_method(config, "em")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"seed": 3}, r"compare\.datasets\.x\.seed changes what all share"),
    ({"data": {"sauce": "npz"}}, r"compare\.datasets\.x\.data\.sauce; did you mean .*source"),
    ({"data": {"size": -1}}, r"Data set 'x' of the comparison cannot be used: .*data\.size"),
    (
      {"compare": {"datasets": {"y": {}}}},
      r"compare\.datasets\.x\.compare\.datasets.* holds no others",
    ),
    ("digits", r"compare\.datasets\.x is 'digits'"),
  ],
)
def test_a_wrong_data_set_is_named(changes, words):
  config = Config(compare=Compare(methods=("em",), datasets={"x": changes}))
  with pytest.raises(UserError, match=words):
    recipes.for_dataset(config, "x")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-x", "report"])
def test_a_data_set_is_named_as_a_folder_may_be(name):
  settings = configs.default()
  settings.compare.methods = ("em",)
  settings.compare.datasets = {name: {}}
  with pytest.raises(UserError, match="letters"):
    validation.freeze(settings)
