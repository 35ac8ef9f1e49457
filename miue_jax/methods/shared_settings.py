"""Declares the settings that several methods share."""

from typing import Annotated, Literal

import pydantic

from miue_jax.settings.config import Augmentation, Method, Model, Sgd
from miue_jax.settings.schema import (
  Count,
  CountOrZero,
  Percent,
  Positive,
  at_most,
  require,
  settings,
)

Init = Literal["zeros", "random"]
Norm = Literal["linf", "l2", "none"]
Draws = Annotated[Count, at_most(1000)]
# Names of input transformations; `transforms.random_transformation` draws from them.
Transformations = Annotated[
  tuple[
    Annotated[str, pydantic.Field(pattern=r"^(none|grayscale|jpeg([1-9]|[1-8]\d|9[0-5]))$")], ...
  ],
  pydantic.Field(min_length=1),
]


@settings
class SignSteps(Method):
  """Sign steps on the perturbations of a batch of images."""

  batch_size: Count = 512  # of the delta pass, global
  steps: Count = 10  # sign steps on each batch
  init: Init = "zeros"  # random: uniform in [-epsilon, epsilon]
  balanced: bool = False  # batches weigh every class the same (for imbalanced data)
  checkpoint_every: Count = 5  # epochs between checkpoints


@settings
class Sourced(SignSteps):
  """Sign steps against a source model."""

  model: Model = Model()  # the source model
  source: Sgd = Sgd()  # how it is trained
  epochs: Count = 100  # passes of source training
  microbatch: CountOrZero = 0  # images whose activations an accelerator holds at a time; 0: a batch
  augment: Augmentation = "flip"  # inside the delta step
  augment_poisoned: bool = False  # True: transform x + delta; False: transform x, then add delta
  draws: Draws = 1  # augmentation draws averaged in every sign step

  def __post_init__(self):
    """Checks fields against each other."""
    super().__post_init__()
    whole = self.microbatch == 0 or self.batch_size % self.microbatch == 0
    allowed = f"0 (all) or a divisor of batch_size ({self.batch_size})"
    require(whole, "microbatch", self.microbatch, allowed)


@settings
class AlternatingSettings(Sourced):
  """Source training that alternates with sign steps."""

  epochs: Count = 100  # at most; each: source updates, then one pass of delta updates
  source_steps: CountOrZero = 0  # source batches of an epoch; 0: one pass
  # The loop ends when the source model errs on fewer percent of the poisoned images; 0: never.
  stop_error: Percent = 0.0
  step_size_start: Positive = 0.2 / 255  # of the first epoch, in [0, 1] pixel units
  step_size_end: Positive = 0.4 / 255  # the step size moves linearly towards this
  class_wise: bool = False  # one perturbation for each class instead of one for each image


@settings
class AdversarialSettings(AlternatingSettings):
  """Alternation with an adversary that moves the poisoned images."""

  inner_epsilon: Annotated[float, pydantic.Field(ge=0, le=1)] = 4 / 255  # radius of the adversary
  inner_steps: CountOrZero = 10  # its sign steps
  inner_step_size: Positive = 0.8 / 255  # their size


@settings
class PatternSettings(Method):
  """A perturbation that is drawn without a source model."""

  # Bounded quantity: linf: every pixel; l2: the rms change of an image; none: nothing.
  norm: Norm = "linf"
  # True: 128 random bits, which are not stored, replace the seed. Nobody can then draw the same
  # pattern again, and the poison cannot be made a second time.
  secret: bool = False
