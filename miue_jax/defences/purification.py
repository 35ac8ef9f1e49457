"""Provides purification: a generative model replaces every training image by its own version.

The models of the defences are trained here, on the clean images that the defence is assumed to
have: the share `evaluate.clean_fraction` of the test images. Its victims are not tested on these
images. Published purifiers had more images: AVATAR used a diffusion model of the whole clean
training set. `restored` learns from pairs of protected and clean images instead.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax.data.dataset import Split
from miue_jax.data.images import Images
from miue_jax.defences import generative
from miue_jax.defences.defence import Defence
from miue_jax.machine import prng, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.errors import UserError

LEVELS = 1000  # noise levels; variances grow linearly from 1e-4 to 0.02 (Ho et al., DDPM, 2020)
EVALUATIONS = 20  # largest number of evaluations of the diffusion model for one image
# Standard deviation of the decoder, in [0, 1] pixel units: details smaller than the budget of a
# poison are not worth their rate.
DECODER_STD = 8 / 255


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


# Maps (params, key, images in [-1, 1]) to a scalar.
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


def variational(training: Training = Training()) -> Defence:
  """Returns the defence that reconstructs images by a variational autoencoder.

  The defence follows D-VAE (Yu et al., "Purify Unlearnable Examples via Rate-Constrained
  Variational Autoencoders", ICML 2024): a limited rate through 256 latent dimensions keeps common
  image content and loses perturbations. D-VAE trains on the poisoned images, holds the rate at a
  target, and learns the perturbations by a second decoder. Here the model trains on clean images,
  and the decoder's standard deviation, which equals the budget, balances rate and error.
  """

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    _require_in_memory(train, "vae")
    model = generative.Autoencoder(training.width, train.images.shape[1:])
    params = _drawn(model, train.images.shape[1:], (generative.LATENT,), seed)
    params = fit(functools.partial(evidence_loss, model), params, clean, training, seed)

    @jax.jit
    def rebuilt(params, images):
      return model.apply({"params": params}, images, jnp.zeros((len(images), generative.LATENT)))[0]

    return _replaced(train, lambda keys, images: rebuilt(params, images), training, seed)

  return Defence("vae", preprocess=preprocess, needs_clean=True)


def restored(
  images: np.ndarray,
  protected: np.ndarray,
  originals: np.ndarray,
  seed: int,
  training: Training = Training(),
) -> np.ndarray:
  """Returns images from which a network removed what it learned from pairs to remove.

  An adversary who can have their own images protected gets such pairs. The idea is that of
  BridgePure (Wang et al., "BridgePure: Limited Protection Leakage Can Break Black-Box Data
  Protection", NeurIPS 2025), whose network is a diffusion bridge, and LightShed (Foerster et al.,
  USENIX Security 2025), whose network is an autoencoder. Here a U-Net predicts the perturbation by
  least squares.

  Args:
    images: Protected images, uint8 `[N, H, W, C]`.
    protected: Other protected images, uint8 `[n, H, W, C]`.
    originals: Their originals, uint8 `[n, H, W, C]`.
    seed: Seed of the training.
    training: Settings of the training.

  Returns:
    Images uint8 `[N, H, W, C]`.

  Raises:
    UserError: The final loss is not finite.
  """
  model = generative.UNet(training.width)
  params = _drawn(model, images.shape[1:], (), seed)

  def removed(params, images):
    # The network is that of the diffusion model, at the level of no noise.
    return images - model.apply({"params": params}, images, jnp.zeros(len(images)))

  def loss(params, key, pairs):
    del key
    given, wanted = jnp.split(pairs, 2, axis=-1)
    return jnp.mean((removed(params, given) - wanted) ** 2)

  pairs = _unlabelled(np.concatenate([protected, originals], axis=-1))
  params = fit(loss, params, pairs, training, seed)
  apply = jax.jit(removed)
  made = _replaced(_unlabelled(images), lambda keys, x: apply(params, x), training, seed)
  return made.images[:]


def _require_in_memory(split: Split, name: str) -> None:
  """Raises a UserError if the images are read from their files whenever they are needed."""
  if not split.images.in_memory:
    raise UserError(
      f"Defence {name!r} looks at all training images at once: raise data.memory so that they fit "
      "in memory, or remove the defence from evaluate.defences."
    )


def _drawn(model: Any, image: tuple[int, ...], other: tuple[int, ...], seed: int) -> Any:
  """Returns initial parameters for one image and another input, of these shapes."""
  inputs = jnp.zeros((1, *image)), jnp.zeros((1, *other))
  return jax.jit(model.init)(prng.stream(seed, "purifier"), *inputs)["params"]


def _unlabelled(images: np.ndarray) -> Split:
  return Split(Images(images), np.zeros(len(images), np.int32))


def evidence_loss(model: Any, params: Any, key: jax.Array, images: jax.Array) -> jax.Array:
  """Returns the negative evidence lower bound in nats per image, up to a constant."""
  noise = jax.random.normal(key, (len(images), generative.LATENT))
  rebuilt, mean, log_variance = model.apply({"params": params}, images, noise)
  # The standard deviation is in [0, 1] pixel units; images in [-1, 1] span twice that range.
  errors = jnp.sum((rebuilt - images) ** 2, axis=(1, 2, 3)) / (2 * (2 * DECODER_STD) ** 2)
  return jnp.mean(errors + divergence(mean, log_variance))


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """Returns KL(N(mean, diag(variance)) || N(0, 1)) in nats: `[batch, latent]` -> `[batch]`."""
  return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=1)


def diffusion(level: int, training: Training = Training()) -> Defence:
  """Returns the defence that adds noise up to `level` of 1000 and removes it by a diffusion model.

  The defence follows AVATAR (Dolatabadi et al., "The Devil's Advocate: Shattering the Illusion of
  Unexploitable Data using Diffusion Models", 2023), which uses levels of 60 to 100. The model
  learns only the levels up to `level`, and denoises in at most 20 evaluations.
  """
  name = f"avatar{level}"

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    _require_in_memory(train, name)
    model = generative.UNet(training.width)
    params = _drawn(model, train.images.shape[1:], (), seed)

    def noise_of(params, noisy, levels):
      return model.apply({"params": params}, noisy, levels)

    params = fit(functools.partial(denoising_loss, noise_of, level), params, clean, training, seed)
    sample = sampler(noise_of, level)
    return _replaced(train, functools.partial(sample, params), training, seed)

  return Defence(name, preprocess=preprocess, needs_clean=True)


def signal_share() -> np.ndarray:
  """Returns the image's share of the variance at each level, float64 `[1001]`; level 0 is clean."""
  return np.cumprod(np.concatenate([[1.0], 1 - np.linspace(1e-4, 0.02, LEVELS)]))


def denoising_loss(
  noise_of: Callable, highest: int, params: Any, key: jax.Array, images: jax.Array
) -> jax.Array:
  """Returns the mean squared error of the predicted noise at random levels from 1 to `highest`."""
  level_key, noise_key = jax.random.split(key)
  levels = jax.random.randint(level_key, (len(images),), 1, highest + 1)
  share = jnp.asarray(signal_share(), jnp.float32)[levels][:, None, None, None]
  noise = jax.random.normal(noise_key, images.shape)
  noisy = jnp.sqrt(share) * images + jnp.sqrt(1 - share) * noise
  return jnp.mean((noise_of(params, noisy, levels) - noise) ** 2)


def sampler(noise_of: Callable, level: int) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
  """Returns a function that adds noise up to `level` and samples back to level 0.

  The function uses ancestral sampling over a subsequence of levels (Song et al., DDIM, 2021, with
  eta 1) and clips the predicted image to [-1, 1].

  Args:
    noise_of: Function from (params, noisy images, levels `[batch]`) to the predicted noise.
    level: Level from which sampling starts.

  Returns:
    Function `sample(params, keys, images)` with keys `[batch]` and float images `[batch, H, W, C]`
    in [-1, 1]; it returns images of the same shape.
  """
  share = signal_share()
  count = min(level, EVALUATIONS)
  stops = np.linspace(level, 0, count + 1).round().astype(int)

  def drawn(keys, number, shape):
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), shape))(keys)

  @jax.jit
  def noised(keys, images):
    noise = drawn(keys, 0, images.shape[1:])
    return np.sqrt(share[level]) * images + np.sqrt(1 - share[level]) * noise

  @jax.jit
  def step(params, keys, noisy, index):
    now = jnp.asarray(stops)[index]
    own, after = (jnp.asarray(share[stops], jnp.float32)[i] for i in (index, index + 1))
    noise = noise_of(params, noisy, jnp.full(len(noisy), now))
    image = jnp.clip((noisy - jnp.sqrt(1 - own) * noise) / jnp.sqrt(own), -1.0, 1.0)
    fresh = (1 - after) / (1 - own) * (1 - own / after)
    kept = jnp.sqrt(jnp.maximum(1 - after - fresh, 0.0))
    fresh_noise = jnp.sqrt(fresh) * drawn(keys, index + 1, noisy.shape[1:])
    return jnp.sqrt(after) * image + kept * noise + fresh_noise

  def sample(params, keys, images):
    noisy = noised(keys, images)
    # One dispatch per step: loops on a CPU are slow, and an unrolled loop compiles for long.
    for index in range(count):
      noisy = step(params, keys, noisy, sharding.replicate(np.int32(index)))
    return noisy

  return sample


def fit(loss: Loss, params: Any, clean: Split | None, training: Training, seed: int) -> Any:
  """Returns parameters trained to lower `loss` on random batches of clean images.

  Raises:
    UserError: the final loss is not finite.
  """
  assert clean is not None, "a defence with needs_clean gets clean images"
  optimiser = optax.adam(optax.cosine_decay_schedule(training.learning_rate, training.steps))
  generator, batch = np.random.default_rng(seed), _batch(training)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, key, images):
    value, gradient = jax.value_and_grad(loss)(params, key, _to_model(images))
    updates, state = optimiser.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value

  params = sharding.replicate(params)
  state, value = sharding.replicate(optimiser.init(params)), np.inf
  for index in range(training.steps):
    rows = generator.integers(0, len(clean), batch)
    images = _placed(clean.images, rows)
    params, state, value = step(params, state, prng.stream(seed, "purifier", index), images)
  if not np.isfinite(sharding.fetch(value)):
    raise UserError(
      "The loss of the purifier is not finite: it needs more images, of which "
      "evaluate.clean_fraction gives it a share."
    )
  return params


_keys = jax.jit(prng.example_keys)


@jax.jit
def _to_model(images: jax.Array) -> jax.Array:
  """Maps uint8 levels to [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


@jax.jit
def _to_levels(images: jax.Array) -> jax.Array:
  """Maps [-1, 1] to uint8 levels."""
  return jnp.clip(jnp.round(127.5 * (images + 1)), 0, 255).astype(jnp.uint8)


def _replaced(train: Split, purify: Callable, training: Training, seed: int) -> Split:
  """Returns `train` with its images replaced by `purify(keys, images)`, batch by batch."""
  key, batch = prng.stream(seed, "purify"), _batch(training)
  result = np.empty(train.images.shape, np.uint8)
  for start in range(0, len(train), batch):
    rows = np.minimum(np.arange(start, start + batch), len(train) - 1)
    keys = _keys(key, sharding.shard(rows.astype(np.int32)))
    purified = _to_levels(purify(keys, _to_model(_placed(train.images, rows))))
    result[start : start + batch] = sharding.fetch(purified)[: len(train) - start]
  return dataclasses.replace(train, images=Images(result))


def _placed(images: Images, rows: np.ndarray) -> jax.Array:
  """Puts the images with indices `rows` on the devices, sharded."""
  return sharding.shard_rows(lambda part: images[rows[part]], (len(rows), *images.shape[1:]))


def _batch(training: Training) -> int:
  """Returns the batch size, rounded up to a multiple of the number of devices."""
  devices = jax.sharding.get_mesh().shape[AXIS]
  return -(-training.batch_size // devices) * devices
