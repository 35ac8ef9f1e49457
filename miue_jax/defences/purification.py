"""Provides purification: a generative model replaces every training image by its own version.

The models of the defences are trained here, on the clean images that the defence is assumed to
have: the share `evaluate.clean_fraction` of the test images. Its victims are not tested on these
images. Published purifiers had more images: AVATAR used a diffusion model of the whole clean
training set. `restored` learns from pairs of protected and clean images instead.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.data.dataset import Split
from miue_jax.data.images import Images
from miue_jax.defences import fitting, generative
from miue_jax.defences.defence import Defence
from miue_jax.defences.fitting import Training
from miue_jax.machine import sharding
from miue_jax.settings.errors import UserError

LEVELS = 1000  # noise levels; variances grow linearly from 1e-4 to 0.02 (Ho et al., DDPM, 2020)
EVALUATIONS = 20  # largest number of evaluations of the diffusion model for one image
# Standard deviation of the decoder, in [0, 1] pixel units: details smaller than the budget of a
# poison are not worth their rate.
DECODER_STD = 8 / 255


def variational(training: Training = fitting.DEFAULT) -> Defence:
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
    params = fitting.drawn(model, train.images.shape[1:], (generative.LATENT,), seed)
    params = fitting.fit(functools.partial(evidence_loss, model), params, clean, training, seed)

    @fitting.over_rows
    def rebuilt(params, images):
      return model.apply({"params": params}, images, jnp.zeros((len(images), generative.LATENT)))[0]

    return fitting.replaced(train, lambda keys, images: rebuilt(params, images), training, seed)

  def flops(image: tuple[int, int, int], count: int) -> float:
    model = generative.Autoencoder(training.width, image)
    loss = functools.partial(evidence_loss, model)
    return fitting.flops(model, loss, image, (generative.LATENT,), training, count)

  return Defence("vae", preprocess=preprocess, needs_clean=True, flops=flops)


def restored(
  images: np.ndarray,
  protected: np.ndarray,
  originals: np.ndarray,
  seed: int,
  training: Training = fitting.DEFAULT,
) -> np.ndarray:
  """Returns images from which a network, trained on pairs, has removed the perturbations.

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
  params = fitting.drawn(model, images.shape[1:], (), seed)
  loss = functools.partial(_pair_loss, model)
  pairs = _unlabelled(np.concatenate([protected, originals], axis=-1))
  params = fitting.fit(loss, params, pairs, training, seed)
  apply = fitting.over_rows(functools.partial(_removed, model))
  made = fitting.replaced(_unlabelled(images), lambda keys, x: apply(params, x), training, seed)
  return made.images[:]


def restored_flops(
  image: tuple[int, int, int], count: int, training: Training = fitting.DEFAULT
) -> float:
  """Returns the FLOPs of `restored` for `count` images `[H, W, C]`."""
  model = generative.UNet(training.width)
  loss = functools.partial(_pair_loss, model)
  return fitting.flops(model, loss, image, (), training, count, channels=2)


def _removed(model: Any, params: Any, images: jax.Array) -> jax.Array:
  """Returns images minus what the U-Net predicts for them at noise level 0."""
  return images - model.apply({"params": params}, images, jnp.zeros(len(images)))


def _pair_loss(model: Any, params: Any, keys: jax.Array, pairs: jax.Array) -> jax.Array:
  """Returns the mean squared error for pairs, whose channels are those of both images."""
  del keys
  given, wanted = jnp.split(pairs, 2, axis=-1)
  return jnp.mean((_removed(model, params, given) - wanted) ** 2)


def _require_in_memory(split: Split, name: str) -> None:
  """Raises a UserError if the images are read from their files whenever they are needed."""
  if not split.images.in_memory:
    raise UserError(
      f"Defence {name!r} looks at all training images at once: raise data.memory so that they fit "
      "in memory, or remove the defence from evaluate.defences."
    )


def _unlabelled(images: np.ndarray) -> Split:
  return Split(Images(images), np.zeros(len(images), np.int32))


def evidence_loss(model: Any, params: Any, keys: jax.Array, images: jax.Array) -> jax.Array:
  """Returns the negative evidence lower bound in nats per image, up to a constant."""
  noise = _noise(keys, (generative.LATENT,))
  rebuilt, mean, log_variance = model.apply({"params": params}, images, noise)
  # The standard deviation is in [0, 1] pixel units; images in [-1, 1] span twice that range.
  errors = jnp.sum((rebuilt - images) ** 2, axis=(1, 2, 3)) / (2 * (2 * DECODER_STD) ** 2)
  return jnp.mean(errors + divergence(mean, log_variance))


def _noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns standard normal noise `[n, *shape]` from keys `[n]`."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """Returns KL(N(mean, diag(variance)) || N(0, 1)) in nats: `[batch, latent]` -> `[batch]`."""
  return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=1)


def diffusion(level: int, training: Training = fitting.DEFAULT) -> Defence:
  """Returns the defence that adds noise up to `level` of 1000 and removes it by a diffusion model.

  The defence follows AVATAR (Dolatabadi et al., "The Devil's Advocate: Shattering the Illusion of
  Unexploitable Data using Diffusion Models", 2023), which uses levels of 60 to 100. The model
  learns only the levels up to `level`, and denoises in at most 20 evaluations.
  """
  name, model = f"avatar{level}", generative.UNet(training.width)

  def predicted(params, noisy, levels):
    return model.apply({"params": params}, noisy, levels)

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    _require_in_memory(train, name)
    params = fitting.drawn(model, train.images.shape[1:], (), seed)
    loss = functools.partial(denoising_loss, predicted, level)
    params = fitting.fit(loss, params, clean, training, seed)
    sample = sampler(predicted, level)
    return fitting.replaced(train, functools.partial(sample, params), training, seed)

  def flops(image: tuple[int, int, int], count: int) -> float:
    loss = functools.partial(denoising_loss, predicted, level)
    return fitting.flops(model, loss, image, (), training, _evaluations(level) * count)

  return Defence(name, preprocess=preprocess, needs_clean=True, flops=flops)


def _evaluations(level: int) -> int:
  """Returns how often the diffusion model is evaluated for one image."""
  return min(level, EVALUATIONS)


def signal_share() -> np.ndarray:
  """Returns the image's share of the variance at each level, float64 `[1001]`; level 0 is clean."""
  return np.cumprod(np.concatenate([[1.0], 1 - np.linspace(1e-4, 0.02, LEVELS)]))


def denoising_loss(
  noise_of: Callable, highest: int, params: Any, keys: jax.Array, images: jax.Array
) -> jax.Array:
  """Returns the mean squared error of the predicted noise at random levels from 1 to `highest`."""
  level_keys, noise_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  levels = jax.vmap(lambda key: jax.random.randint(key, (), 1, highest + 1))(level_keys)
  share = jnp.asarray(signal_share(), jnp.float32)[levels][:, None, None, None]
  noise = _noise(noise_keys, images.shape[1:])
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
  count = _evaluations(level)
  stops = np.linspace(level, 0, count + 1).round().astype(int)

  def drawn(keys, number, shape):
    return _noise(jax.vmap(lambda key: jax.random.fold_in(key, number))(keys), shape)

  @fitting.over_rows
  def noised(_, keys, images):
    noise = drawn(keys, 0, images.shape[1:])
    return np.sqrt(share[level]) * images + np.sqrt(1 - share[level]) * noise

  @fitting.over_rows
  def step(constants, keys, noisy):
    params, index = constants
    now = jnp.asarray(stops)[index]
    own, after = (jnp.asarray(share[stops], jnp.float32)[i] for i in (index, index + 1))
    noise = noise_of(params, noisy, jnp.full(len(noisy), now))
    image = jnp.clip((noisy - jnp.sqrt(1 - own) * noise) / jnp.sqrt(own), -1.0, 1.0)
    fresh = (1 - after) / (1 - own) * (1 - own / after)
    kept = jnp.sqrt(jnp.maximum(1 - after - fresh, 0.0))
    fresh_noise = jnp.sqrt(fresh) * drawn(keys, index + 1, noisy.shape[1:])
    return jnp.sqrt(after) * image + kept * noise + fresh_noise

  def sample(params, keys, images):
    noisy = noised(None, keys, images)
    # One dispatch per step: loops on a CPU are slow, and an unrolled loop compiles for long.
    for index in range(count):
      noisy = step((params, sharding.replicate(np.int32(index))), keys, noisy)
    return noisy

  return sample
