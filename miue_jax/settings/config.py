"""Declares every setting with its default, unit, meaning and check.

A recipe in `configs/` is an `ml_collections.ConfigDict` with the sections of `Config`, so that
every key can be overridden on the command line. `freeze` turns it into the frozen dataclasses
below, and the package sees only these. The defaults of the victim are the paper's
(Zhu et al., ICLR 2026). Each method declares its settings in `miue_jax/methods/`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import pydantic

from miue_jax import budget
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import (
  Count,
  CountOrZero,
  Epsilon,
  Fraction,
  Limit,
  NonNegative,
  Positive,
  Seed,
  at_most,
  changed,
  distinct,
  require,
  settings,
)

FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # a name that is safe as the name of a folder

Augmentation = Literal["none", "flip", "crop", "crop_flip"]
Condition = Literal["clean", "random", "poison", "restored"]
Estimator = Literal["histogram", "kde", "knn", "gaussian", "mine", "infonce", "nwj"]
Seeds = Annotated[tuple[Seed, ...], pydantic.AfterValidator(distinct)]
Conditions = Annotated[tuple[Condition, ...], pydantic.AfterValidator(distinct)]
Names = Annotated[tuple[str, ...], pydantic.AfterValidator(distinct)]
_some = pydantic.Field(min_length=1)
_none_or_two = pydantic.AfterValidator(
  lambda value: (require(value != 1, "", value, "0 (none) or at least 2"), value)[1]
)


@settings
class Data:
  """The source of the images."""

  source: str = "digits"  # digits | npz | folder | tfds
  name: str = ""  # tfds: the dataset's name ("cifar10"); otherwise a label for tables
  path: str = ""  # npz: the file; folder: its root; tfds: data_dir, empty: the default of tfds
  # Pixels of a side to which images are resized before poisoning; 0: unchanged
  size: Annotated[CountOrZero, at_most(4096)] = 0
  train_split: str = "train"  # tfds only
  test_split: str = "test"  # tfds only
  # Held out for testing, stratified by seed, if the source has no test set.
  test_fraction: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.2
  classes: tuple[str, ...] = ()  # keep only these classes, in this order; empty keeps all
  max_train: Limit = 0  # at most this many training images (stratified by seed); 0: all
  max_test: Limit = 0  # the same for the test images
  memory: NonNegative = 4.0  # GB of decoded images to hold; other images are read again when needed
  seed: Seed = 0  # draws the held-out test set and the two subsets


@settings
class Model:
  """A network: images in [0, 1] -> (features, logits)."""

  name: str = "resnet18"  # see miue_jax.models.MODELS
  # Channels of the first stage; MLPs and linear classifiers ignore it
  width: Annotated[Count, at_most(8192)] = 64
  # small: 3x3 stride 1; imagenet: 7x7 stride 2 and max-pool (ResNets)
  stem: Literal["small", "imagenet"] = "small"
  normalise: Literal["imagenet", "none"] = "imagenet"  # ImageNet mean and std inside the model
  dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters stay float32


@settings
class Sgd:
  """The supervised training of a source model or a victim."""

  batch_size: Count = 128  # global, over all devices
  learning_rate: Positive = 0.1  # at the start
  final_learning_rate: NonNegative = 1e-6  # of the cosine schedule, which changes once an epoch
  # Share of the last update in the next one
  momentum: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.9
  weight_decay: NonNegative = 1e-4  # on all parameters, as PyTorch's SGD does
  augment: Augmentation = "flip"  # crop pads by 4 pixels
  # steps: learning_rate, divided by 10 at 40 % and again at 80 % of the epochs. onecycle: rises
  # from a 25th of learning_rate over 30 % of the steps and falls to nearly 0, changing every step
  schedule: Literal["cosine", "steps", "onecycle"] = "cosine"


@settings
class Fit(Sgd):
  """The training of a victim."""

  epochs: Count = 200  # passes over the training images
  checkpoint_every: Count = 10  # epochs between checkpoints
  start_from: str = ""  # file of initial weights, written by --mode=pretrain; empty: random weights


@settings
class Method:
  """The settings that every method has: the budget, and the images that are perturbed."""

  name: str = ""  # see miue_jax.methods.METHODS
  # Budget: max |poisoned - clean|, in [0, 1] pixel units; patterns may bound another norm.
  epsilon: Epsilon = 8 / 255
  fraction: Fraction = 1.0  # perturbed share of every class (chosen by seed)
  # The same by class, from class 0 on; classes without a fraction are perturbed whole.
  class_fractions: tuple[Annotated[float, pydantic.Field(ge=0, le=1)], ...] = ()
  only_class: Annotated[int, pydantic.Field(ge=-1)] = -1  # perturb this class alone; -1: all
  # Number of poisons from different seeds; every image gets one of them
  ensemble: Annotated[Count, at_most(100)] = 1
  # truncate: the uint8 conversion of the authors' code, for parity
  rounding: Literal["nearest", "truncate"] = "nearest"

  def __post_init__(self):
    """Checks fields against each other."""
    require(budget.budget(self.epsilon) > 0, "epsilon", self.epsilon, "at least 0.5/255")
    fractions = self.class_fractions
    alone = self.fraction == 1 and self.only_class == -1 and any(fractions)
    allowed = "empty, or not all 0 while fraction is 1 and only_class is -1"
    require(not fractions or alone, "class_fractions", fractions, allowed)


@settings
class Evaluate:
  """The victims of one experiment."""

  # restored: the images that the key gives back
  conditions: Annotated[Conditions, _some] = ("clean", "random", "poison")
  defences: Names = ("none",)  # see miue_jax.defences; each on every condition and seed
  # Part of the test images that is given to defences which need clean images.
  clean_fraction: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.5
  # Seeds of initial weights, order and augmentation; one victim each
  seeds: Annotated[Seeds, _some] = (0, 1, 2)

  def __post_init__(self):
    """Checks that some victims have no defence; `measure` needs them."""
    require("none" in self.defences, "defences", self.defences, 'a list that holds "none"')


@settings
class Measure:
  """The estimates of mutual information between features of clean and of released images."""

  # histogram, kde, knn and gaussian are averaged over random projections; mine, infonce and nwj are
  # lower bounds from a network that reads all features.
  estimators: Annotated[tuple[Estimator, ...], pydantic.AfterValidator(distinct), _some] = (
    "histogram",
  )
  # Layers of the victim, by name or pattern ("BasicBlock_*", "*"): features (the input of its
  # classifier), logits, or one of miue_jax.train.layer_features.names, averaged over positions
  layers: Annotated[Names, _some] = ("features",)
  # test: test images, each changed as a training image of its class
  split: Literal["train", "test"] = "train"
  samples: Limit = 2000  # images used (stratified by seed); 0: all
  projections: Count = 128  # random unit directions
  # shared: clean and released features are projected onto the same directions
  directions: Literal["shared", "independent"] = "shared"
  # over the projections; max: the largest, chosen on one half of the samples
  statistic: Literal["mean", "max"] = "mean"
  bins: Annotated[int, pydantic.Field(ge=2, le=1024)] = 16  # histogram: per axis, of equal width
  # histogram; miller_madow subtracts the first-order bias
  correction: Literal["none", "miller_madow"] = "none"
  bandwidth: Literal["scott", "silverman"] = "scott"  # kde: rule of thumb
  neighbours: Count = 3  # knn
  covariance: Literal["empirical", "ledoit_wolf"] = (
    "empirical"  # gaussian: estimate of the covariance
  )
  critic_steps: Count = 5000  # mine, infonce, nwj: largest number of training steps
  bootstrap: Annotated[CountOrZero, _none_or_two] = 20  # random halves for the interval; 0: none
  null: Annotated[CountOrZero, _none_or_two] = 20  # estimates of shuffled pairs; 0: none
  # Number of evenly spaced epochs of generation after which the histogram and the covariance term
  # of the theorem are computed, for methods that alternate between source model and delta; 0: none
  epochs: CountOrZero = 0
  seed: Seed = 0  # draws images, directions, halves and shuffled pairs


@settings
class Compare:
  """The table of datasets x methods x victims x defences x seeds that `--mode=compare` fills."""

  # Changes for each dataset, by the name of its folder in the workdir and by section, such as
  # {"digits": {"data": {"source": "digits"}, "victim": {"width": 8}}}; empty: `data` alone.
  datasets: dict = dataclasses.field(default_factory=dict)
  methods: Names = ()  # names of miue_jax.methods.METHODS, or of recipes
  # Settings of all methods, each where a method has it, such as {"batch_size": 256}.
  shared: dict = dataclasses.field(default_factory=dict)
  # Changes of a method's settings, by the name in `methods`, such as
  # {"em_class": {"name": "em", "class_wise": True}}.
  recipes: dict = dataclasses.field(default_factory=dict)
  external: tuple[str, ...] = ()  # NAME=PATH: external poison, listed as a method
  victims: Names = ()  # names of networks with the other settings of `victim`; empty: its name
  defences: Annotated[Names, _some] = ("none",)  # see miue_jax.defences
  seeds: Annotated[Seeds, _some] = (0, 1, 2)  # for victims without a defence
  defended_seeds: Seeds = ()  # for victims with a defence; empty: `seeds`
  poison_per_seed: bool = False  # True: one poison for each of `seeds`; False: one for `seed`
  # cifar10: shows the numbers published for CIFAR-10
  published: Literal["", "cifar10"] = ""

  def __post_init__(self):
    """Checks that the names of datasets can be names of folders."""
    for name in self.datasets:
      fine = bool(FOLDER.fullmatch(name)) and name != "report"
      require(fine, "datasets", name, "of letters, digits, _, + and -, and not 'report'")


@settings
class Config:
  """The settings of one experiment."""

  name: str = "digits"  # of the experiment, and of its folder in runs/
  seed: Seed = 0  # of the generation: source model, order of images, random draws
  devices: CountOrZero = 0  # 0: all accelerators, or as many CPU cores as divide the batches
  data: Data = Data()  # the images
  method: Method = Method()  # how the poison is made; the class depends on the method
  victim: Model = Model(normalise="none")  # the network that learns from the images
  victim_fit: Fit = Fit(learning_rate=0.5, augment="crop_flip")  # how the victim is trained
  evaluate: Evaluate = Evaluate()  # which victims are trained
  measure: Measure = Measure()  # how mutual information is estimated
  compare: Compare = Compare()  # the table of --mode=compare

  def __post_init__(self):
    """Checks that the name gives a folder of its own inside `runs`."""
    path = pathlib.PurePath(self.name)
    fine = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    require(fine, "name", self.name, "the name of a folder in runs")

  @property
  def batch_sizes(self) -> tuple[int, ...]:
    """Returns every batch size that is divided among the devices."""
    return (*batch_sizes(self.method), self.victim_fit.batch_size)


def named_batches(method: Method) -> dict[str, int]:
  """Returns the batch sizes of a method by the names of their settings."""
  source = getattr(method, "source", None)
  sizes = {"source.batch_size": source.batch_size} if source else {}
  sizes |= {key: getattr(method, key, 0) for key in ("batch_size", "microbatch")}
  return {key: size for key, size in sizes.items() if size}


def batch_problems(config: Config, images: int, made: Collection[str], devices: int) -> list[str]:
  """Returns a list of the problems with the batch sizes of a run or a plan.

  Args:
    config: The settings.
    images: Number of training images.
    made: Names of the stages that will run; the batches of others do not matter.
    devices: Number of devices that share a batch; 0 if it will be chosen to divide all batches.
  """
  wanted = {}
  if "generate" in made:
    wanted = {f"method.{name}": size for name, size in named_batches(config.method).items()}
  if {"evaluate", "pretrain", "compare"} & set(made):
    wanted["victim_fit.batch_size"] = config.victim_fit.batch_size
  problems = [
    f"--config.{name}={size} is more than the {images} training images"
    for name, size in wanted.items()
    # The pass over delta pads its last batch.
    if size > images and name not in ("method.batch_size", "method.microbatch")
  ]
  return problems + [
    f"--config.{name}={size} is not divisible by {devices} devices"
    for name, size in wanted.items()
    if devices and size % devices
  ]


def batch_sizes(method: Method) -> tuple[int, ...]:
  """Returns every batch size that a method divides among the devices."""
  return tuple(named_batches(method).values())


def freeze(values: Mapping[str, Any], methods: Mapping[str, type[Method]]) -> Config:
  """Makes a checked `Config` from plain values.

  Args:
    values: Nested dict with the sections of `Config`.
    methods: Settings class of every method, by name.

  Raises:
    UserError: A key is unknown, or a value has the wrong type or is out of range.
  """
  if (name := values.get("method", {}).get("name")) not in methods:
    known = ", ".join(sorted(methods))
    raise UserError(
      f"Setting method.name is {name!r}; it must be one of {known}, or a method that the recipe of "
      "--config adds: give that recipe."
    )
  # The problems of the method come first.
  return changed(Config(method=methods[name]()), {"method": {}, **values})
