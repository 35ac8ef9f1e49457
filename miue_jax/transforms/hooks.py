"""What a victim may do to every batch before it learns from it: the part of a defence in a step."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from miue_jax import objectives


@flax.struct.dataclass
class Targets:
  """Soft labels: the target of row i is `sum_k weights[i, k] onehot(labels[i, k])`.

  Attributes:
    labels: int `[batch, k]`.
    weights: `[batch, k]`; they sum to 1 over k.
  """

  labels: jax.Array
  weights: jax.Array

  @classmethod
  def hard(cls, labels: jax.Array) -> "Targets":
    """One label `[batch]` for each row."""
    return cls(labels[:, None], jnp.ones((len(labels), 1)))

  def loss(self, logits: jax.Array) -> jax.Array:
    """Cross-entropy (nats) of `[batch, classes]`, one value per row."""
    each = jax.vmap(objectives.cross_entropy, in_axes=(None, 1), out_axes=1)
    return jnp.sum(self.weights * each(logits, self.labels), axis=1)

  def correct(self, logits: jax.Array) -> jax.Array:
    """Weight that each row's target gives to the class of its largest logit, `[batch]`."""
    hits = jnp.argmax(logits, axis=1)[:, None] == self.labels
    return jnp.sum(self.weights * hits, axis=1)


# (keys, images, targets) of the local rows -> images and targets to learn from.
Augment = Callable[[jax.Array, jax.Array, Targets], tuple[jax.Array, Targets]]

# Images -> one loss per row of the model as it is, BatchNorm in inference mode.
Loss = Callable[[jax.Array], jax.Array]

# (keys, images, loss) of the local rows -> images to learn from.
Adversary = Callable[[jax.Array, jax.Array, Loss], jax.Array]


@dataclasses.dataclass(frozen=True)
class Hooks:
  """Pure functions that run inside a train step, after flips and crops.

  Images are float `[local batch, height, width, channel]` in [0, 1], keys one per example and
  derived from its id, so that results do not depend on the number of devices; a hook may use the
  mesh axis "data".

  Attributes:
    augment: transforms images, and their labels where it mixes them.
    adversary: chooses images by what they do to the model.
    share: of the epochs, from the first, in which these hooks act ...
    then: ... and what acts in the others; None: these throughout.
  """

  augment: Augment | None = None
  adversary: Adversary | None = None
  share: float = 1.0
  then: "Hooks | None" = None

  def at(self, epoch: int, epochs: int) -> "Hooks":
    """The hooks of an epoch, counted from 0."""
    return self if self.then is None or epoch < self.share * epochs else self.then


NONE = Hooks()
