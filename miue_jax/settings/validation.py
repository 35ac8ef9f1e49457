"""Which settings make sense: a recipe -> a validated `Config`, or a sentence that names the key."""

from typing import Any

import ml_collections

from miue_jax.budget import NORMS, budget
from miue_jax.settings import config as configs
from miue_jax.settings.config import Compare, Config
from miue_jax.settings.errors import UserError
from miue_jax.settings.frozen import frozen


def freeze(settings: ml_collections.ConfigDict) -> Config:
  """Turns a recipe into a validated `Config`.

  Raises:
    UserError: an unknown key, a value of the wrong type or one that makes no sense.
  """
  config = frozen(Config, settings.to_dict(), "")
  validate(config)
  return config


def validate(config: Config) -> None:
  """Checks every value that no stage could work with.

  Raises:
    UserError: naming the key, its value and what is allowed.
  """
  method, measure = config.method, config.measure
  require(0 < method.epsilon <= 127 / 255, "method.epsilon", method.epsilon, "in (0, 127/255]")
  require(budget(method.epsilon) > 0, "method.epsilon", method.epsilon, "at least 0.5/255")
  require(
    method.epsilon <= method.epsilon_start <= 1,
    "method.epsilon_start",
    method.epsilon_start,
    "between method.epsilon and 1",
  )
  require(0 < method.fraction <= 1, "method.fraction", method.fraction, "in (0, 1]")
  require(
    not method.class_fractions
    or (method.fraction == 1 and method.only_class == -1 and any(method.class_fractions)),
    "method.class_fractions",
    method.class_fractions,
    "empty, or not all 0 while method.fraction is 1 and method.only_class -1",
  )
  require(
    all(0 <= fraction <= 1 for fraction in method.class_fractions),
    "method.class_fractions",
    method.class_fractions,
    "in [0, 1], one for each class",
  )
  require(method.tau > 0, "method.tau", method.tau, "positive")
  for key in ("zeta", "similarity_weight", "epsilon_epochs", "source_steps", "inner_steps"):
    require(getattr(method, key) >= 0, f"method.{key}", getattr(method, key), "0 or more")
  require(
    method.zeta + method.similarity_weight > 0,
    "method.zeta",
    method.zeta,
    "positive when method.similarity_weight is 0",
  )
  for key in ("epochs", "batch_size", "steps", "draws", "restarts", "members", "checkpoint_every"):
    require(getattr(method, key) >= 1, f"method.{key}", getattr(method, key), "1 or more")
  require(
    method.microbatch >= 0
    and (not method.microbatch or method.batch_size % method.microbatch == 0),
    "method.microbatch",
    method.microbatch,
    f"0 (all) or a divisor of method.batch_size ({method.batch_size})",
  )
  require(0 <= method.stop_error < 100, "method.stop_error", method.stop_error, "in [0, 100)")
  require(0 <= method.inner_epsilon <= 1, "method.inner_epsilon", method.inner_epsilon, "in [0, 1]")
  for key in ("step_size_start", "step_size_end", "inner_step_size", "generator_learning_rate"):
    require(getattr(method, key) > 0, f"method.{key}", getattr(method, key), "positive")
  require(method.only_class >= -1, "method.only_class", method.only_class, "-1 (all) or a class")
  require(
    len(method.squeezes) > 0 and all(map(configs.SQUEEZES.fullmatch, method.squeezes)),
    "method.squeezes",
    method.squeezes,
    "one or more of none, grayscale and jpeg1 to jpeg95",
  )
  _choose("method.augment", method.augment, configs.AUGMENTATIONS)
  _choose("method.init", method.init, configs.INITS)
  _choose("method.norm", method.norm, NORMS)
  _choose("method.rounding", method.rounding, configs.ROUNDINGS)
  for name, fit in (("source", config.source), ("victim_fit", config.victim_fit)):
    _choose(f"{name}.augment", fit.augment, configs.AUGMENTATIONS)
    _choose(f"{name}.schedule", fit.schedule, configs.SCHEDULES)
    require(fit.batch_size >= 1, f"{name}.batch_size", fit.batch_size, "1 or more")
    require(fit.learning_rate > 0, f"{name}.learning_rate", fit.learning_rate, "positive")
    require(0 <= fit.momentum < 1, f"{name}.momentum", fit.momentum, "in [0, 1)")
    for key in ("final_learning_rate", "weight_decay"):
      require(getattr(fit, key) >= 0, f"{name}.{key}", getattr(fit, key), "0 or more")
  for key in ("epochs", "checkpoint_every"):
    value = getattr(config.victim_fit, key)
    require(value >= 1, f"victim_fit.{key}", value, "1 or more")
  for key, seeds in (
    ("seed", (config.seed,)),
    ("data.seed", (config.data.seed,)),
    ("evaluate.seeds", config.evaluate.seeds),
    ("measure.seed", (measure.seed,)),
  ):
    require(all(0 <= seed < 2**32 for seed in seeds), key, seeds, "0 or more, below 2**32")
  require(config.devices >= 0, "devices", config.devices, "0 (all) or more")
  require(config.data.size >= 0, "data.size", config.data.size, "0 (keep) or more")
  fraction = config.data.test_fraction
  require(0 <= fraction < 1, "data.test_fraction", fraction, "in [0, 1)")
  for key in ("max_train", "max_test"):
    value = getattr(config.data, key)
    require(value >= 0, f"data.{key}", value, "0 (all) or more")
  require(config.data.memory >= 0, "data.memory", config.data.memory, "0 or more (GB)")
  for condition in config.evaluate.conditions:
    _choose("evaluate.conditions", condition, configs.CONDITIONS)
  # What the others are compared with, and whose victims `measure` looks at.
  defences = config.evaluate.defences
  require("none" in defences, "evaluate.defences", defences, 'a list that holds "none"')
  fraction = config.evaluate.clean_fraction
  require(0 < fraction < 1, "evaluate.clean_fraction", fraction, "in (0, 1)")
  require(len(config.evaluate.seeds) > 0, "evaluate.seeds", config.evaluate.seeds, "one or more")
  require(measure.samples >= 0, "measure.samples", measure.samples, "0 (all) or more")
  require(measure.epochs >= 0, "measure.epochs", measure.epochs, "0 (none) or more")
  require(measure.projections >= 1, "measure.projections", measure.projections, "1 or more")
  require(measure.bins >= 2, "measure.bins", measure.bins, "2 or more")
  names = measure.estimators
  require(len(set(names)) == len(names) > 0, "measure.estimators", names, "different, and not none")
  for name in names:
    _choose("measure.estimators", name, configs.ESTIMATORS)
  for key, known in (
    ("directions", configs.DIRECTIONS),
    ("statistic", configs.STATISTICS),
    ("correction", configs.CORRECTIONS),
    ("bandwidth", configs.BANDWIDTHS),
    ("covariance", configs.COVARIANCES),
    ("split", configs.SPLITS),
  ):
    _choose(f"measure.{key}", getattr(measure, key), known)
  for key in ("slice_dimensions", "neighbours", "critic_steps"):
    require(getattr(measure, key) >= 1, f"measure.{key}", getattr(measure, key), "1 or more")
  require(measure.critic_batch >= 2, "measure.critic_batch", measure.critic_batch, "2 or more")
  require(measure.variant in (1, 2), "measure.variant", measure.variant, "1 or 2")
  scale = measure.bandwidth_scale
  require(scale > 0, "measure.bandwidth_scale", scale, "positive")
  layers = measure.layers
  require(len(set(layers)) == len(layers) > 0, "measure.layers", layers, "different, and not none")
  for key in ("bootstrap", "null"):
    value = getattr(measure, key)
    require(value == 0 or value >= 2, f"measure.{key}", value, "0 (none) or at least 2")

  _validate_arena(config.compare)


def _validate_arena(compare: Compare) -> None:
  require(len(compare.seeds) > 0, "compare.seeds", compare.seeds, "one or more")
  for key in ("seeds", "defended_seeds"):
    seeds = getattr(compare, key)
    require(all(0 <= seed < 2**32 for seed in seeds), f"compare.{key}", seeds, "below 2**32")
  for key in ("methods", "victims", "defences", "seeds", "defended_seeds"):
    values = getattr(compare, key)
    require(len(set(values)) == len(values), f"compare.{key}", values, "without repetitions")
  for name in compare.datasets:
    fine = bool(configs.FOLDER.fullmatch(name)) and name != "report"
    require(fine, "compare.datasets", name, "of letters, digits, _, + and -, and not 'report'")
  require(len(compare.defences) > 0, "compare.defences", compare.defences, "one or more")
  _choose("compare.published", compare.published, configs.PUBLISHED)


def require(fine: bool, key: str, value: Any, allowed: str) -> None:
  """Raises a UserError that names a config key and what it must be, unless its value is fine."""
  if not fine:
    raise UserError(f"Config key {key} is {value!r}; it must be {allowed}.")


def _choose(key: str, value: str, known: tuple[str, ...]) -> None:
  require(value in known, key, value, f"one of {', '.join(known)}")
