"""Every setting, once: its name, default, unit and meaning.

A recipe in `configs/` starts from `default()` (an `ml_collections.ConfigDict`, so that every key
can be overridden on the command line) and changes what it needs. `validation.freeze` turns the
result into the frozen dataclasses below; a ConfigDict never travels further than `main`. The
defaults of model, source, method, victim and victim_fit are the recipe of the paper (Zhu et al.,
ICLR 2026).
"""

import dataclasses
import re

import ml_collections

AUGMENTATIONS = ("none", "flip", "crop", "crop_flip")
INITS = ("zeros", "random")
SCHEDULES = ("cosine", "steps")
SQUEEZES = re.compile(r"none|grayscale|jpeg([1-9]|[1-8]\d|9[0-5])")  # jpeg and its quality
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # a name that is one of a folder, too
ROUNDINGS = ("nearest", "truncate")
CONDITIONS = ("clean", "random", "poison", "restored")
PUBLISHED = ("", "cifar10")
ESTIMATORS = ("histogram", "kde", "knn", "gaussian", "mine", "infonce", "nwj")
DIRECTIONS = ("shared", "independent")
STATISTICS = ("mean", "max")
CORRECTIONS = ("none", "miller_madow")
BANDWIDTHS = ("scott", "silverman")
COVARIANCES = ("empirical", "ledoit_wolf")
SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Data:
  """Where the images come from."""

  source: str = "digits"  # digits | npz | folder | tfds
  name: str = ""  # tfds: the dataset's name ("cifar10"); otherwise a label for tables, may be empty
  path: str = ""  # npz: the file; folder: its root; tfds: data_dir, empty for tfds's own default
  size: int = 0  # images become size x size pixels BEFORE poisoning; 0 keeps them as they are
  train_split: str = "train"  # tfds only
  test_split: str = "test"  # tfds only
  test_fraction: float = 0.2  # held out, stratified by seed, where the source has no test set
  classes: tuple[str, ...] = ()  # keep only these classes, in this order; empty keeps all
  max_train: int = 0  # keep at most this many training images (stratified by seed); 0 keeps all
  max_test: int = 0  # the same for the test images
  memory: float = 4.0  # GB of decoded images to hold; more are read again whenever they are needed
  seed: int = 0  # of the held-out split and of the two subsets


@dataclasses.dataclass(frozen=True)
class Model:
  """A network: images in [0, 1] -> (features, logits)."""

  name: str = "resnet18"  # see miue_jax.models.MODELS
  width: int = 64  # channels of the first stage; MLPs and linear derive theirs from the image
  stem: str = "small"  # small: 3x3 stride 1; imagenet: 7x7 stride 2 and max-pool (ResNets)
  normalise: str = "imagenet"  # imagenet: ImageNet mean and std inside the model; none
  dtype: str = "float32"  # of the computation: float32 | bfloat16; parameters stay float32


@dataclasses.dataclass(frozen=True)
class Sgd:
  """Supervised training, as source models and victims share it."""

  batch_size: int = 128  # global, over all devices
  learning_rate: float = 0.1
  final_learning_rate: float = 1e-6  # per-epoch cosine from learning_rate to this
  momentum: float = 0.9
  weight_decay: float = 1e-4  # on all parameters, as PyTorch's SGD does
  augment: str = "flip"  # none | flip | crop (pad 4) | crop_flip
  schedule: str = "cosine"  # cosine | steps: learning_rate, a tenth of it at 40 % and at 80 %


@dataclasses.dataclass(frozen=True)
class Fit(Sgd):
  """A whole training: a victim."""

  epochs: int = 200
  checkpoint_every: int = 10  # epochs between checkpoints
  start_from: str = ""  # weights to start from, as --mode=pretrain writes them; empty: random ones


@dataclasses.dataclass(frozen=True)
class Method:
  """How the perturbation is made."""

  name: str = "miue"  # see miue_jax.methods.METHODS
  epsilon: float = 8 / 255  # the budget: max |poisoned - clean|, in [0, 1] pixel units
  norm: str = "linf"  # what epsilon bounds: linf: that; l2: an image's rms change; none: nothing
  epsilon_start: float = 8 / 255  # radius of the first epoch; falls linearly to epsilon
  epsilon_epochs: int = 0  # over this many epochs; 0: epsilon throughout
  epochs: int = 100  # at most; each: source updates, then one pass of delta updates
  source_steps: int = 0  # source batches of an epoch; 0: one pass
  stop_error: float = 0.0  # ends when the source errs on fewer percent of poisoned images; 0: never
  batch_size: int = 512  # of the delta pass; L_mi compares images inside one batch
  microbatch: int = 0  # an accelerator holds activations of this many images of a batch; 0: of all
  steps: int = 10  # sign steps on each batch; gue: Adam steps to the classifier's best response
  step_size_start: float = 0.2 / 255  # of the first epoch ...
  step_size_end: float = 0.4 / 255  # ... moving linearly towards this one
  tau: float = 0.1  # temperature of the similarity term; tue: of its contrast
  zeta: float = 0.1  # weight of the distance term; tue: of separability; *_mine: of information
  similarity_weight: float = 1.0  # weight of the similarity term; 0 is the paper's ablation
  augment: str = "flip"  # inside the delta step: none | flip | crop | crop_flip
  augment_poisoned: bool = False  # True: transform x + delta; False: transform x, then add delta
  draws: int = 1  # augmentation draws averaged in every sign step
  init: str = "zeros"  # zeros | random: uniform in [-epsilon, epsilon]
  generator_learning_rate: float = 0.1  # gue: of the network that makes perturbations
  restarts: int = 1  # ap: how often delta starts anew; each image keeps its best
  inner_epsilon: float = 4 / 255  # rem, sem: radius of the adversary, in [0, 1] pixel units
  inner_steps: int = 10  # rem, sem: its sign steps ...
  inner_step_size: float = 0.8 / 255  # ... and their size
  # miue_robust: what images lose, one drawn for each image and step: none | grayscale | jpegQUALITY
  squeezes: tuple[str, ...] = ("none", "grayscale", "jpeg50")
  class_wise: bool = False  # one perturbation for each class instead of one for each image
  members: int = 1  # poisons made from seeds of their own, which images take in turn
  fraction: float = 1.0  # of the images of every class that are perturbed (chosen by seed)
  class_fractions: tuple[float, ...] = ()  # the same for one class after the other; (): fraction
  only_class: int = -1  # perturb this class alone; -1: all
  balanced: bool = False  # delta batches weigh every class the same (for imbalanced data)
  rounding: str = "nearest"  # nearest | truncate (the authors' uint8 conversion, for parity)
  checkpoint_every: int = 5  # epochs between checkpoints


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """Victims: what an unauthorised person trains."""

  conditions: tuple[str, ...] = ("clean", "random", "poison")  # also: "restored" with the key
  defences: tuple[str, ...] = ("none",)  # see miue_jax.defences; each on every condition and seed
  clean_fraction: float = 0.5  # of the test images, given to defences that need clean ones
  seeds: tuple[int, ...] = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Measure:
  """Mutual information between features of clean and of released images."""

  # histogram, kde, knn and gaussian see one random projection at a time and are averaged over many;
  # mine, infonce and nwj are bounds by a network that sees all features.
  estimators: tuple[str, ...] = ("histogram",)
  # Of the victim, by name or pattern ("BasicBlock_*", "*"): features (what its classifier sees),
  # logits, or a layer of miue_jax.information.layers.names, averaged over positions
  layers: tuple[str, ...] = ("features",)
  split: str = "train"  # train; test: test images, each changed as a training image of its class
  samples: int = 2000  # images used (stratified by seed); 0: all
  projections: int = 128  # random unit directions
  directions: str = "shared"  # shared: both sides are projected on the same ones; independent
  statistic: str = "mean"  # over projections: mean | max (the best, found on half of the samples)
  slice_dimensions: int = 1  # of a projection; histograms take up to 3
  bins: int = 16  # histogram: of equal width per axis, between the smallest and the largest value
  correction: str = "none"  # histogram: none | miller_madow (subtracts the first-order bias)
  bandwidth: str = "scott"  # kde: scott | silverman, rules for normal data ...
  bandwidth_scale: float = 1.0  # ... times this
  neighbours: int = 3  # knn
  variant: int = 1  # knn: 1 | 2, Kraskov's two estimators
  covariance: str = "empirical"  # gaussian: empirical | ledoit_wolf (shrunk, for few samples)
  critic_steps: int = 5000  # mine, infonce, nwj: at most, of the network's training ...
  critic_batch: int = 64  # ... and pairs of one step
  bootstrap: int = 20  # random halves for the interval, each a further estimate; 0: no interval
  null: int = 20  # estimates of shuffled pairs, to see what no dependence looks like; 0: none
  # Evenly spaced epochs of generation after which the histogram and the theorem's covariance term
  # are taken from the source model, where a method trains one in turns with delta; 0: none
  epochs: int = 0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Compare:
  """`--mode=compare`: data sets x methods x victims x defences x seeds in one table."""

  # By the name of its folder in the workdir: what is different for a data set, by section, such as
  # {"digits": {"data": {"source": "digits"}, "victim": {"width": 8}}}; empty: `data` alone.
  datasets: dict = dataclasses.field(default_factory=dict)
  methods: tuple[str, ...] = ()  # names of miue_jax.methods.METHODS, or of recipes
  # By the name in `methods`: what its recipe changes in the sections model, source and method, such
  # as {"em_class": {"method": {"name": "em", "class_wise": True}}}.
  recipes: dict = dataclasses.field(default_factory=dict)
  bring: tuple[str, ...] = ()  # NAME=PATH: poisoned training images from elsewhere, as a method
  victims: tuple[str, ...] = ()  # networks, otherwise as `victim` says; empty: victim.name alone
  defences: tuple[str, ...] = ("none",)  # see miue_jax.defences; each also on clean images
  seeds: tuple[int, ...] = (0, 1, 2)  # of victims without a defence
  defended_seeds: tuple[int, ...] = ()  # of victims with one; empty: the same
  poison_per_seed: bool = False  # True: every seed makes its own poisons; False: `seed` makes them
  published: str = ""  # cifar10: the images are CIFAR-10 or part of it; show its published numbers


@dataclasses.dataclass(frozen=True)
class Config:
  """One experiment."""

  name: str = "digits"
  seed: int = 0  # of the source model, the order of images and every draw in generation
  devices: int = 0  # 0: all accelerators, or one CPU device per core where that divides the batches
  data: Data = Data()
  model: Model = Model()  # the source model
  source: Sgd = Sgd()  # how it is trained, one pass in each of method.epochs
  method: Method = Method()
  victim: Model = Model(normalise="none")
  victim_fit: Fit = Fit(learning_rate=0.5, augment="crop_flip")
  evaluate: Evaluate = Evaluate()
  measure: Measure = Measure()
  compare: Compare = Compare()

  @property
  def batch_sizes(self) -> tuple[int, ...]:
    """Every number of images that is spread over the devices at once."""
    method = self.method
    parts = (method.microbatch,) if method.microbatch else ()
    sizes = (self.source.batch_size, method.batch_size, self.victim_fit.batch_size)
    return sizes + parts


def default() -> ml_collections.ConfigDict:
  """All settings at their defaults, to start a recipe from."""
  return ml_collections.ConfigDict(dataclasses.asdict(Config()))
