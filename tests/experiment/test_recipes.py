"""The changes of datasets and methods, and what they may not change."""

import dataclasses

import pytest

from miue_jax.experiment import recipes
from miue_jax.methods import ap, em
from miue_jax.settings.config import Compare, Config, Model, Sgd
from miue_jax.settings.errors import UserError


def test_recipes_change_what_they_say_and_nothing_else():
  compare = Compare(
    methods=("em", "em_class"),
    recipes={"em_class": {"name": "em", "class_wise": True, "model": {"width": 8}}},
  )
  config = Config(compare=compare)
  plain, changed = (recipes.for_method(config, name) for name in compare.methods)
  assert plain == dataclasses.replace(config, method=em.Settings())
  assert changed.method == em.Settings(class_wise=True, model=Model(width=8))
  assert dataclasses.replace(changed, method=plain.method) == plain


def test_shared_settings_reach_the_methods_that_have_them():
  shared = {"batch_size": 64, "draws": 2, "source": {"batch_size": 32}}
  compare = Compare(methods=("ap", "lsp"), shared=shared, recipes={"ap": {"draws": 3}})
  config = Config(compare=compare)
  found = recipes.for_method(config, "ap").method
  source = dataclasses.replace(ap.Settings().source, batch_size=32)
  assert found == ap.Settings(batch_size=64, draws=3, source=source)
  assert isinstance(found.source, Sgd)
  assert recipes.for_method(config, "lsp").method.name == "lsp"  # which has none of them


def test_a_dataset_changes_what_it_says_and_nothing_else():
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
    ({"victim": {"width": 8}}, r"compare\.recipes\.em\.victim"),
    ({"epohs": 8}, r"compare\.recipes\.em\.epohs; did you mean .*epochs"),
    ({"epochs": "8"}, r"compare\.recipes\.em\.epochs is '8' \(str\)"),
    ({"epochs": 0}, r"compare\.recipes\.em\.epochs is 0"),
    ({"source": {"batch_size": 0}}, r"compare\.recipes\.em\.source\.batch_size is 0"),
    ({"name": "magic"}, r"Unknown method 'magic'.*known: ap"),
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
    ({"seed": 3}, r"compare\.datasets\.x\.seed changes what all datasets share"),
    ({"data": {"sauce": "npz"}}, r"compare\.datasets\.x\.data\.sauce; did you mean .*source"),
    ({"data": {"size": -1}}, r"compare\.datasets\.x\.data\.size is -1"),
    ({"data": 8}, r"compare\.datasets\.x\.data is 8"),
    (
      {"compare": {"datasets": {"y": {}}}},
      r"compare\.datasets\.x\.compare\.datasets.* cannot hold other datasets",
    ),
    ("digits", r"compare\.datasets\.x is 'digits'"),
  ],
)
def test_a_wrong_dataset_is_named(changes, words):
  config = Config(compare=Compare(methods=("em",), datasets={"x": changes}))
  with pytest.raises(UserError, match=words):
    recipes.for_dataset(config, "x")
