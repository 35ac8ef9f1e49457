"""Trains the networks of purifiers, and replaces images by their outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax.data.dataset import Split
from miue_jax.data.images import Images
from miue_jax.machine import cpu, loops, prng, progress, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.errors import UserError


@dataclasses.dataclass(frozen=True)
class Training:
  """Holds the settings of a purifier's training by Adam, with a cosine schedule to 0.

  Attributes:
    width: Number of channels of the first stage.
    steps: Number of training steps.
    batch_size: Number of images in a batch, rounded up to a multiple of the devices.
    learning_rate: Initial learning rate.
  """

  width: int = 32
  steps: int = 2000
  batch_size: int = 64
  learning_rate: float = 1e-3


DEFAULT = Training()

# Maps (params, keys `[n]`, images `[n, H, W, C]` in [-1, 1]) to the mean over these images.
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


def drawn(model: Any, image: tuple[int, ...], other: tuple[int, ...], seed: int) -> Any:
  """Returns initial parameters for one image and another input, of these shapes."""
  inputs = jnp.zeros((1, *image)), jnp.zeros((1, *other))
  return jax.jit(model.init)(prng.stream(seed, "purifier"), *inputs)["params"]


def fit(loss: Loss, params: Any, clean: Split | None, training: Training, seed: int) -> Any:
  """Returns parameters trained to lower `loss` on random batches of clean images.

  Raises:
    UserError: The final loss is not finite.
  """
  assert clean is not None, "a defence with needs_clean gets clean images"
  optimiser = optax.adam(optax.cosine_decay_schedule(training.learning_rate, training.steps))
  generator, batch = np.random.default_rng(seed), _batch(training)
  places = sharding.shard(np.arange(batch, dtype=np.int32))

  def local(carry, constants, index):
    del index
    (params, state, _), (key, places, images) = carry, constants
    keys = prng.example_keys(key, places)

    def mean(params):
      return jax.lax.pmean(loss(params, keys, _to_model(images)), AXIS)

    value, gradient = jax.value_and_grad(mean)(params)
    updates, state = optimiser.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value

  whole, rows = jax.P(), jax.P(AXIS)
  specs = whole, (whole, rows, rows), whole
  run = loops.repeated(jax.shard_map(local, in_specs=specs, out_specs=whole))
  carry = sharding.replicate((params, optimiser.init(params), np.float32(np.inf)))

  def steps():
    nonlocal carry
    for index in range(training.steps):
      images = _placed(clean.images, generator.integers(0, len(clean), batch))
      constants = prng.stream(seed, "purifier", index), places, images
      carry, _ = run(carry, constants, index, index + 1)
      yield batch

  progress.count("training the purifier, seen", steps(), training.steps * batch)
  params, _, value = carry
  if not np.isfinite(sharding.fetch(value)):
    raise UserError(
      "The loss of the purifier is not finite: it needs more images, of which "
      "evaluate.clean_fraction gives it a share."
    )
  return params


def flops(
  model: Any,
  loss: Loss,
  image: tuple[int, int, int],
  other: tuple[int, ...],
  training: Training,
  predictions: int,
  channels: int = 1,
) -> float:
  """Returns the FLOPs of `fit` and of predictions for images, without compiling anything.

  Args:
    model: The network.
    loss: Its loss.
    image: Height, width, channels.
    other: Shape of the other input of the network for one image.
    training: Settings of the training.
    predictions: Number of images, each counted as often as the network is applied to it.
    channels: The loss gets images with this multiple of the channels.
  """
  batch = training.batch_size
  shapes = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in (image, other)]
  key = jax.eval_shape(lambda: jax.random.key(0))
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
  params = jax.eval_shape(model.init, key, *shapes)
  images = jax.ShapeDtypeStruct((batch, *image[:2], channels * image[2]), jnp.float32)
  one = cpu.flops(jax.jit(jax.grad(loss)), params["params"], keys, images) / batch
  # A gradient takes three times the FLOPs of a prediction.
  return one * (training.steps * batch + predictions / 3)


def over_rows(function: Callable[..., Any]) -> Callable[..., Any]:
  """Jits `function(params, *arrays)` of the rows of arrays, which are divided among the devices."""

  def call(params, *arrays):
    specs = jax.P(), *(jax.P(AXIS) for _ in arrays)
    return jax.shard_map(function, in_specs=specs, out_specs=jax.P(AXIS))(params, *arrays)

  return jax.jit(call)


_keys = jax.jit(prng.example_keys)


@jax.jit
def _to_model(images: jax.Array) -> jax.Array:
  """Maps uint8 levels to [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


@jax.jit
def _to_levels(images: jax.Array) -> jax.Array:
  """Maps [-1, 1] to uint8 levels."""
  return jnp.clip(jnp.round(127.5 * (images + 1)), 0, 255).astype(jnp.uint8)


def replaced(train: Split, purify: Callable, training: Training, seed: int) -> Split:
  """Returns `train` with its images replaced by `purify(keys, images)`, batch by batch."""
  key, batch = prng.stream(seed, "purify"), _batch(training)
  result = np.empty(train.images.shape, np.uint8)

  def batches():
    for start in range(0, len(train), batch):
      rows = np.minimum(np.arange(start, start + batch), len(train) - 1)
      keys = _keys(key, sharding.shard(rows.astype(np.int32)))
      purified = _to_levels(purify(keys, _to_model(_placed(train.images, rows))))
      part = sharding.fetch(purified)[: len(train) - start]
      result[start : start + batch] = part
      yield len(part)

  progress.count("purified", batches(), len(train))
  return dataclasses.replace(train, images=Images(result))


def _placed(images: Images, rows: np.ndarray) -> jax.Array:
  """Puts the images with indices `rows` on the devices, sharded."""
  return sharding.shard_rows(lambda part: images[rows[part]], (len(rows), *images.shape[1:]))


def _batch(training: Training) -> int:
  """Returns the batch size, rounded up to a multiple of the number of devices."""
  devices = jax.sharding.get_mesh().shape[AXIS]
  return -(-training.batch_size // devices) * devices
