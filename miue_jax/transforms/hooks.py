"""Defines the functions that a train step calls on every batch, and the soft labels they return.

A step calls hooks inside `jax.shard_map` on the local rows of a batch: float images
`[local batch, height, width, channel]` in [0, 1] and one random key per example, derived from its
id. Results therefore do not depend on the number of devices. A hook may use the mesh axis "data".
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from miue_jax import objectives


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
  """Holds soft labels: the target of row i is `sum_k weights[i, k] onehot(labels[i, k])`.

  Attributes:
    labels: Integer classes `[batch, k]`.
    weights: Float weights `[batch, k]` that sum to 1 over k.
  """

  labels: jax.Array
  weights: jax.Array

  @classmethod
  def hard(cls, labels: jax.Array) -> "Targets":
    """Returns targets with the one label `[batch]` of each row."""
    chex.assert_rank(labels, 1)
    return cls(labels[:, None], jnp.ones((len(labels), 1)))

  def loss(self, logits: jax.Array) -> jax.Array:
    """Returns the cross-entropy (nats) of logits `[batch, classes]`, one value per row."""
    each = jax.vmap(objectives.cross_entropy, in_axes=(None, 1), out_axes=1)
    return jnp.sum(self.weights * each(logits, self.labels), axis=1)

  def correct(self, logits: jax.Array) -> jax.Array:
    """Returns the weight `[batch]` that each target gives to the class of the largest logit."""
    hits = jnp.argmax(logits, axis=1)[:, None] == self.labels
    return jnp.sum(self.weights * hits, axis=1)


# Maps (keys, images) to images.
Transformation = Callable[[jax.Array, jax.Array], jax.Array]

# Maps (keys, images, targets) to the images and targets that the model learns from.
Augment = Callable[[jax.Array, jax.Array, Targets], tuple[jax.Array, Targets]]

# Maps images to one loss per row of the current model, with BatchNorm in inference mode.
Loss = Callable[[jax.Array], jax.Array]

# Maps (keys, images, loss) to the images that the model learns from.
Adversary = Callable[[jax.Array, jax.Array, Loss], jax.Array]


@dataclasses.dataclass(frozen=True)
class Hooks:
  """Holds pure functions that run inside a train step, after flips and crops.

  Attributes:
    augment: Transforms images, and their labels if it mixes them.
    adversary: Chooses images by their effect on the model.
    share: Fraction of the epochs, from the first, in which these hooks act.
    then: Hooks of the remaining epochs; None keeps these hooks in all epochs.
  """

  augment: Augment | None = None
  adversary: Adversary | None = None
  share: float = 1.0
  then: "Hooks | None" = None

  def at(self, epoch: int, epochs: int) -> "Hooks":
    """Returns the hooks of `epoch`, counted from 0, out of `epochs`."""
    return self if self.then is None or epoch < self.share * epochs else self.then


NONE = Hooks()


def assert_batch(keys: jax.Array, images: jax.Array) -> None:
  """Asserts at trace time that images are float `[batch, H, W, C]` with one random key each."""
  chex.assert_rank(images, 4)
  chex.assert_type(images, float)  # uint8 images would be mistaken for images in [0, 1]
  chex.assert_shape(keys, images.shape[:1])
