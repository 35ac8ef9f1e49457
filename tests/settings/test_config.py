"""Settings: every default and recipe is valid, every mistake is named."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest

from miue_jax.information import estimators
from miue_jax.methods import METHODS, settings_of
from miue_jax.settings import config
from miue_jax.settings.errors import UserError

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
RECIPES = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "common")
VARIANTS = {"cifar10": ("fast", "parity", *METHODS), "curves": ("settings", "defences", "jpeg")}
TABLES = ("compare", "depth", "datasets")


def load(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def variants(stem):
  """The variants of a recipe; `None` calls `get_config()` without one."""
  return (None, *(VARIANTS.get(stem) or (() if stem in TABLES else METHODS)))


def freeze(values):
  return config.freeze(values, settings_of())


def defaults():
  """Plain values of the default settings of MI-UE."""
  made = config.Config(method=METHODS["miue"].settings())
  return dataclasses.asdict(made)


def changed(key, value, method="miue"):
  """The defaults with one dotted key replaced."""
  values = defaults() | {"method": dataclasses.asdict(METHODS[method].settings())}
  inner = values
  *parents, last = key.split(".")
  for parent in parents:
    inner = inner[parent]
  inner[last] = value
  return values


def test_defaults_freeze_to_themselves():
  assert freeze(defaults()) == config.Config(method=METHODS["miue"].settings())


def test_a_config_survives_json():
  frozen = freeze(changed("data.classes", ("cat", "dog")))
  stored = json.loads(json.dumps(dataclasses.asdict(frozen)))
  assert freeze(stored) == frozen


@pytest.mark.parametrize(
  ("path", "variant"),
  [
    pytest.param(path, variant, id=f"{path.stem}:{variant or ''}")
    for path in RECIPES
    for variant in variants(path.stem)
  ],
)
def test_every_recipe_is_valid_with_every_method(path, variant):
  module = load(path)
  made = module.get_config() if variant is None else module.get_config(variant)
  frozen = freeze(made.to_dict())
  assert frozen.name
  assert module.__doc__
  assert frozen.method.name == (variant if variant in METHODS else "miue")


def test_a_recipe_for_an_unknown_method_names_those_that_exist():
  with pytest.raises(ValueError, match=r"no method 'magic'; known: ap, .*miue"):
    load(CONFIGS / "npz.py").get_config("magic")


def test_an_override_in_one_recipe_of_a_table_leaves_the_others_alone():
  settings = load(CONFIGS / "compare.py").get_config()
  settings.compare.recipes.miue.epochs = 3
  frozen = freeze(settings.to_dict())
  epochs = {name: made.get("epochs") for name, made in frozen.compare.recipes.items()}
  assert [name for name, count in epochs.items() if count == 3] == ["miue"]


def test_small_recipes_leave_the_shared_dict_alone():
  common = load(CONFIGS / "common.py")
  common.small("a").method.source.batch_size = 7
  assert common.small("b").method.source.batch_size == 128


@pytest.mark.parametrize(
  ("key", "value", "stored"),
  [
    ("method.tau", 1, 1.0),
    ("evaluate.seeds", [3, 4], (3, 4)),
    ("data.classes", ["a"], ("a",)),
    ("method.only_class", 0, 0),
    ("method.class_fractions", [1, 0.5], (1.0, 0.5)),
    ("seed", 2**32 - 1, 2**32 - 1),
  ],
)
def test_values_are_converted_where_nothing_is_lost(key, value, stored):
  frozen = freeze(changed(key, value))
  for name in key.split("."):
    frozen = getattr(frozen, name)
  assert frozen == stored
  assert type(frozen) is type(stored)


def test_keys_that_are_left_out_keep_their_defaults():
  method = {"name": "rem", "epochs": 5, "source": {"batch_size": 64}}
  frozen = freeze({"method": method, "victim": {"width": 8}})
  # These are the defaults of the fields, not those of their types.
  assert (frozen.method.source.schedule, frozen.victim.normalise) == ("steps", "none")
  default = METHODS["rem"].settings()
  source = dataclasses.replace(default.source, batch_size=64)
  assert frozen == config.Config(
    method=dataclasses.replace(default, epochs=5, source=source),
    victim=config.Model(width=8, normalise="none"),
  )


@pytest.mark.parametrize(
  ("key", "hint"),
  [
    ("method.epsilom", "did you mean method.epsilon"),
    ("sead", "did you mean seed"),
    ("victim.qqq", "known: name, width"),
    ("method.source.batchsize", "did you mean method.source.batch_size"),
  ],
)
def test_an_unknown_key_is_named_with_the_known_ones(key, hint):
  with pytest.raises(UserError, match=f"Unknown setting {key}; .*{hint}"):
    freeze(changed(key, 1))


@pytest.mark.parametrize(
  ("key", "value", "expected"),
  [
    ("method.steps", 2.5, "integer"),
    ("method.steps", True, "integer"),
    ("method.tau", "0.1", "number"),
    ("method.balanced", 1, "boolean"),
    ("name", None, "string"),
    ("evaluate.seeds", 3, "tuple"),
    ("evaluate.seeds", (0, "1"), "integer"),
    ("evaluate.conditions", (1,), "clean"),
    ("data", 3, "Data"),
    ("data.size", {"height": 32}, "integer"),
  ],
)
def test_a_value_of_the_wrong_type_is_named(key, value, expected):
  with pytest.raises(UserError, match=rf"Setting {key} is .*; it must be .*{expected}"):
    freeze(changed(key, value))


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("method.epsilon", 0.0),
    ("method.epsilon", 0.4 / 255),
    ("method.epsilon", 128 / 255),
    ("method.epsilon", 8.0),
    ("method.epsilon", float("nan")),
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
    ("method.epochs", 0),
    ("method.ensemble", 0),
    ("method.augment", "rotate"),
    ("method.rounding", "ceil"),
    ("method.stop_error", 100.0),
    ("method.source.augment", "flop"),
    ("method.source.batch_size", 0),
    ("method.source.momentum", 1.0),
    ("victim_fit.batch_size", 0),
    ("victim_fit.epochs", 0),
    ("victim_fit.checkpoint_every", 0),
    ("victim_fit.learning_rate", 0.0),
    ("victim_fit.weight_decay", -1e-4),
    ("victim_fit.schedule", "linear"),
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
    ("evaluate.seeds", (0, 0)),
    ("evaluate.conditions", ("clean", "dirty")),
    ("evaluate.defences", ()),
    ("evaluate.conditions", ()),
    ("evaluate.conditions", ("clean", "clean")),
    ("evaluate.defences", ("jpeg10",)),
    ("evaluate.defences", ("none", "none")),
    ("name", ""),
    ("name", "."),
    ("name", "../x"),
    ("name", "/tmp/x"),
    ("evaluate.clean_fraction", 0.0),
    ("evaluate.clean_fraction", 1.0),
    ("compare.methods", ("em", "em")),
    ("compare.defences", ()),
    ("compare.seeds", ()),
    ("compare.seeds", (0, 0)),
    ("compare.defended_seeds", (-1,)),
    ("compare.published", "svhn"),
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
    ("method.tau", float("inf")),
    ("method.tau", float("nan")),
    ("method.step_size_start", float("inf")),
    ("victim_fit.learning_rate", float("nan")),
    ("data.memory", float("inf")),
    ("data.memory", float("nan")),
    ("method.epochs", 10**12),
    ("method.steps", 10**6),
    ("method.draws", 10**6),
    ("method.ensemble", 10**6),
    ("measure.epochs", 10**6),
    ("data.size", 10**9),
    ("method.model.width", 10**9),
    ("victim.width", 10**9),
    ("method.batch_size", 10**9),
    ("victim_fit.batch_size", 10**9),
    ("measure.projections", 10**9),
  ],
)
def test_a_value_that_makes_no_sense_is_named(key, value):
  with pytest.raises(UserError, match=f"Setting {key} is .*; it must "):
    freeze(changed(key, value))


@pytest.mark.parametrize(
  ("method", "key", "value"),
  [
    ("random", "method.norm", "l1"),
    ("ap", "method.restarts", 0),
    ("rem", "method.inner_epsilon", 1.5),
    ("rem", "method.draws", 10**6),
    ("tue", "method.augment_poisoned", False),
    ("tue", "method.class_wise", True),
    ("gue", "method.generator_learning_rate", 0.0),
  ],
)
def test_settings_of_one_method_are_checked(method, key, value):
  with pytest.raises(UserError, match=f"Setting {key} is .*; it must "):
    freeze(changed(key, value, method))


@pytest.mark.parametrize("names", ["", "none grey", "jpeg", "jpeg0", "jpeg96"])
def test_unknown_input_transformations_are_refused(names):
  key = next(
    field.name
    for field in dataclasses.fields(METHODS["miue_robust"].settings)
    if isinstance(field.default, tuple) and "jpeg50" in field.default
  )
  with pytest.raises(UserError, match=f"Setting method.{key} is .*; it must "):
    freeze(changed(f"method.{key}", tuple(names.split()), "miue_robust"))


def test_all_problems_of_a_config_are_in_one_message():
  values = changed("method.tau", float("inf"))
  values["method"]["source"]["batch_size"] = 0
  values["seed"] = -1
  values["victim"]["width"] = 0
  with pytest.raises(UserError) as found:
    freeze(values)
  assert str(found.value) == (
    "Setting method.source.batch_size is 0; it must be at least 1; setting method.tau is inf; it "
    "must be a finite number; setting victim.width is 0; it must be at least 1; setting seed is "
    "-1; it must be at least 0."
  )


def test_an_epsilon_in_255ths_comes_with_the_remedy():
  with pytest.raises(UserError, match=r"is 8\.0; it must be in \(0, 127/255\]: write 8/255\."):
    freeze(changed("method.epsilon", 8.0))


def test_a_method_does_not_take_the_settings_of_another():
  with pytest.raises(UserError, match=r"Unknown setting method\.tau"):
    freeze(changed("method.tau", 0.1, "lsp"))


@pytest.mark.parametrize("name", ["", "magic", None])
def test_an_unknown_method_is_named_with_the_known_ones(name):
  words = r"method\.name is .*; it must be one of ap, .*, or a method that the recipe of --config"
  with pytest.raises(UserError, match=words):
    freeze(changed("method.name", name))


def test_an_objective_without_terms_is_refused():
  values = changed("method.zeta", 0.0)
  values["method"]["similarity_weight"] = 0.0
  with pytest.raises(UserError, match=r"method\.zeta is 0\.0; it must be positive when"):
    freeze(values)


@pytest.mark.parametrize("name", ["report", "a/b", "a b", "-x", "..", ""])
def test_data_sets_of_a_table_have_names_of_folders(name):
  with pytest.raises(UserError, match=r"Setting compare\.datasets is .*; it must be of letters"):
    freeze(changed("compare.datasets", {name: {}}))


def test_every_estimator_has_its_name_and_no_other_has():
  assert set(config.Estimator.__args__) == set(estimators.POINTS)
  with pytest.raises(UserError, match='must be "histogram", "kde", "knn", "gaussian"'):
    freeze(changed("measure.estimators", ("magic",)))
