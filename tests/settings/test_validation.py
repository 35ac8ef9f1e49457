"""Settings: every default and recipe is valid, every mistake is named."""

import dataclasses
import importlib.util
import json
import pathlib

import ml_collections
import pytest

from miue_jax.experiment import cells
from miue_jax.experiment import recipes as arena_recipes
from miue_jax.experiment.workdir import Workdir
from miue_jax.information import estimators
from miue_jax.settings import config, validation
from miue_jax.settings.errors import UserError

RECIPES = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def recipes():
  """Every (path, variant); the variant None calls `get_config()` without one."""
  return [
    pytest.param(path, variant, id=f"{path.stem}:{variant or ''}")
    for path in RECIPES
    for variant in (None, *getattr(load(path), "VARIANTS", ()))
  ]


def changed(key, value):
  """The defaults with one dotted key replaced, past the type checks of ConfigDict."""
  settings = config.default().to_dict()
  inner = settings
  *parents, last = key.split(".")
  for parent in parents:
    inner = inner[parent]
  inner[last] = value
  return ml_collections.ConfigDict(settings)


def test_defaults_freeze_to_themselves():
  assert validation.freeze(config.default()) == config.Config()


def test_a_config_survives_json():
  frozen = validation.freeze(changed("data.classes", ("cat", "dog")))
  stored = json.loads(json.dumps(dataclasses.asdict(frozen)))
  assert validation.freeze(ml_collections.ConfigDict(stored)) == frozen


@pytest.mark.parametrize(("path", "variant"), recipes())
def test_every_recipe_is_valid(path, variant):
  module = load(path)
  settings = module.get_config() if variant is None else module.get_config(variant)
  frozen = validation.freeze(settings)
  assert frozen.name
  assert module.__doc__
  for table, _ in cells.tables(frozen, Workdir(pathlib.Path())):
    for name in table.compare.methods:
      arena_recipes.for_method(table, name)


def test_an_override_in_one_recipe_of_the_arena_leaves_the_others_alone():
  settings = load(RECIPES[0].parent / "compare.py").get_config()
  settings.compare.recipes.miue.method.epochs = 3
  frozen = validation.freeze(settings)
  methods = {name: arena_recipes.for_method(frozen, name) for name in frozen.compare.methods}
  epochs = {name: made.method.epochs for name, made in methods.items()}
  assert [name for name, count in epochs.items() if count == 3] == ["miue"]


def test_there_are_recipes():
  assert RECIPES


@pytest.mark.parametrize(
  ("key", "value", "stored"),
  [
    ("method.tau", 1, 1.0),
    ("evaluate.seeds", [3, 4], (3, 4)),
    ("data.classes", ["a"], ("a",)),
    ("method.epsilon_start", 1.0, 1.0),
    ("method.only_class", 0, 0),
    ("method.class_fractions", [1, 0.5], (1.0, 0.5)),
    ("seed", 2**32 - 1, 2**32 - 1),
  ],
)
def test_what_can_be_converted_is(key, value, stored):
  frozen = validation.freeze(changed(key, value))
  for name in key.split("."):
    frozen = getattr(frozen, name)
  assert frozen == stored
  assert type(frozen) is type(stored)


def test_keys_that_are_left_out_keep_their_defaults():
  settings = ml_collections.ConfigDict({"method": {"zeta": 0.5}})
  assert validation.freeze(settings) == config.Config(method=config.Method(zeta=0.5))


@pytest.mark.parametrize(
  ("key", "hint"),
  [
    ("method.epsilom", "did you mean method.epsilon"),
    ("sead", "did you mean seed"),
    ("victim.qqq", "known: name, width"),
  ],
)
def test_an_unknown_key_is_named_with_what_is_known(key, hint):
  with pytest.raises(UserError, match=f"Unknown config key {key}; .*{hint}"):
    validation.freeze(changed(key, 1))


@pytest.mark.parametrize(
  ("key", "value", "expected"),
  [
    ("method.steps", 2.5, "int"),
    ("method.steps", True, "int"),
    ("method.tau", "0.1", "float"),
    ("method.balanced", 1, "bool"),
    ("name", None, "str"),
    ("evaluate.seeds", 3, r"tuple\[int"),
    ("evaluate.seeds", (0, "1"), r"tuple\[int"),
    ("evaluate.conditions", (1,), r"tuple\[str"),
    ("data", 3, "Data"),
    ("data.size", {"height": 32}, "int"),
  ],
)
def test_a_value_of_the_wrong_type_is_named(key, value, expected):
  with pytest.raises(UserError, match=rf"{key} is .*; expected {expected}"):
    validation.freeze(changed(key, value))


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("method.epsilon", 0.0),
    ("method.epsilon", 0.4 / 255),
    ("method.epsilon", 128 / 255),
    ("method.epsilon", 8.0),
    ("method.epsilon", float("nan")),
    ("method.norm", "l1"),
    ("method.epsilon_start", 4 / 255),
    ("method.epsilon_start", 1.01),
    ("method.fraction", 0.0),
    ("method.fraction", 1.1),
    ("method.class_fractions", (0.5, 1.5)),
    ("method.class_fractions", (0.0, 0.0)),
    ("method.tau", 0.0),
    ("method.microbatch", 3),
    ("method.zeta", -0.1),
    ("method.only_class", -2),
    ("method.step_size_end", 0.0),
    ("method.draws", 0),
    ("method.restarts", 0),
    ("method.epochs", 0),
    ("method.augment", "rotate"),
    *(("method.squeezes", tuple(x.split())) for x in ("", "none grey", "jpeg", "jpeg0", "jpeg96")),
    ("method.rounding", "ceil"),
    ("source.augment", "flop"),
    ("source.batch_size", 0),
    ("source.momentum", 1.0),
    ("victim_fit.batch_size", 0),
    ("victim_fit.epochs", 0),
    ("victim_fit.checkpoint_every", 0),
    ("victim_fit.learning_rate", 0.0),
    ("victim_fit.weight_decay", -1e-4),
    ("devices", -1),
    ("data.size", -1),
    ("data.test_fraction", 1.0),
    ("data.max_train", -1),
    ("seed", -1),
    ("seed", 2**32),
    ("data.seed", -1),
    ("measure.seed", -1),
    ("evaluate.seeds", (0, -1)),
    ("evaluate.seeds", ()),
    ("evaluate.conditions", ("clean", "dirty")),
    ("evaluate.defences", ()),
    ("evaluate.defences", ("jpeg10",)),
    ("evaluate.clean_fraction", 0.0),
    ("evaluate.clean_fraction", 1.0),
    ("compare.methods", ("em", "em")),
    ("compare.defences", ()),
    ("compare.seeds", ()),
    ("compare.seeds", (0, 0)),
    ("compare.defended_seeds", (-1,)),
    ("compare.published", "svhn"),
    ("victim_fit.schedule", "linear"),
    ("measure.projections", 0),
    ("measure.bins", 1),
    ("measure.estimators", ()),
    ("measure.estimators", ("knn", "knn")),
    ("measure.estimators", ("histogram", "magic")),
    ("measure.directions", "parallel"),
    ("measure.bootstrap", 1),
    ("measure.bootstrap", -2),
    ("measure.null", 1),
    ("measure.epochs", -1),
  ],
)
def test_a_value_that_makes_no_sense_is_named(key, value):
  with pytest.raises(UserError, match=f"Config key {key} is .*; it must be "):
    validation.freeze(changed(key, value))


def test_an_objective_without_terms_is_refused():
  settings = config.default()
  settings.method.zeta = 0.0
  settings.method.similarity_weight = 0.0
  with pytest.raises(UserError, match=r"method\.zeta is 0\.0; it must be positive when"):
    validation.freeze(settings)


def test_every_estimator_has_its_name_and_no_other_has():
  assert set(config.ESTIMATORS) == set(estimators.POINTS)
  assert config.DIRECTIONS == estimators.DIRECTIONS
  with pytest.raises(
    UserError, match=r"'magic'; it must be one of histogram, kde, knn, gaussian, m"
  ):
    validation.freeze(changed("measure.estimators", ("magic",)))
