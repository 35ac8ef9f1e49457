"""Purification: replace every training image by what a generative model makes of it.

Both models are trained here, on the clean images that the defence is assumed to have: the share
`evaluate.clean_fraction` of the test images, on which its victims are then not tested. Published
purifiers had more: AVATAR a diffusion model of the whole clean training set.
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
from miue_jax.defences.defence import Defence, in_memory
from miue_jax.machine import prng, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.errors import UserError

LEVELS = 1000  # of noise: variances grow linearly from 1e-4 to 0.02 (Ho et al., DDPM, 2020)
EVALUATIONS = 20  # of the diffusion model for an image; fewer where there are fewer levels
DECODER_STD = 8 / 255  # pixels [0, 1]: what is finer than a poison's budget is not worth its rate


@dataclasses.dataclass(frozen=True)
class Training:
  """How a model is trained: Adam, cosine from `learning_rate` to 0."""

  width: int = 32  # channels of the first stage
  steps: int = 2000
  batch_size: int = 64
  learning_rate: float = 1e-3


# (params, key, images in [-1, 1]) -> scalar.
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


def variational(training: Training = Training()) -> Defence:
  """Images as a variational autoencoder reconstructs them, through 256 latent dimensions.

  After D-VAE (Yu et al., "Purify Unlearnable Examples via Rate-Constrained Variational
  Autoencoders", ICML 2024): a limited rate keeps what images share and loses perturbations. There
  the model is trained on the poisoned images, its rate is held to a target, and a second decoder
  learns the perturbations; here it is trained on clean images, and what rate an error is worth
  follows from a decoder noise of the size of the budget.
  """

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    in_memory(train, "vae")
    model = generative.Autoencoder(training.width, train.images.shape[1:])
    start = jnp.zeros((1, *train.images.shape[1:]))
    key = prng.stream(seed, "purifier")
    params = jax.jit(model.init)(key, start, jnp.zeros((1, generative.LATENT)))["params"]
    params = fit(functools.partial(evidence_loss, model), params, clean, training, seed)

    @jax.jit
    def rebuilt(params, images):
      return model.apply({"params": params}, images, jnp.zeros((len(images), generative.LATENT)))[0]

    return _replaced(train, lambda keys, images: rebuilt(params, images), training, seed)

  return Defence("vae", preprocess=preprocess, needs_clean=True)


def evidence_loss(model: Any, params: Any, key: jax.Array, images: jax.Array) -> jax.Array:
  """Negative evidence lower bound (nats an image, up to a constant), decoder std `DECODER_STD`."""
  noise = jax.random.normal(key, (len(images), generative.LATENT))
  rebuilt, mean, log_variance = model.apply({"params": params}, images, noise)
  # Images are in [-1, 1]: twice the units of the standard deviation.
  errors = jnp.sum((rebuilt - images) ** 2, axis=(1, 2, 3)) / (2 * (2 * DECODER_STD) ** 2)
  return jnp.mean(errors + divergence(mean, log_variance))


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL(N(mean, diag(variance)) || N(0, 1)) in nats, `[batch, latent]` -> `[batch]`."""
  return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=1)


def diffusion(level: int, training: Training = Training()) -> Defence:
  """Images noised to `level` of 1000 and denoised by a diffusion model.

  After AVATAR (Dolatabadi et al., "The Devil's Advocate: Shattering the Illusion of Unexploitable
  Data using Diffusion Models", 2023), with levels of 60 to 100. The model learns the levels up to
  this one alone, and goes back over at most 20 of them.
  """
  name = f"avatar{level}"

  def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
    in_memory(train, name)
    model = generative.UNet(training.width)
    start = jnp.zeros((1, *train.images.shape[1:]))
    params = jax.jit(model.init)(prng.stream(seed, "purifier"), start, jnp.zeros(1))["params"]

    def noise_of(params, noisy, levels):
      return model.apply({"params": params}, noisy, levels)

    params = fit(functools.partial(denoising_loss, noise_of, level), params, clean, training, seed)
    sample = sampler(noise_of, level)
    return _replaced(train, functools.partial(sample, params), training, seed)

  return Defence(name, preprocess=preprocess, needs_clean=True)


def signal_share() -> np.ndarray:
  """Variance of an image's own part at each level, float64 `[1001]`; level 0 has no noise."""
  return np.cumprod(np.concatenate([[1.0], 1 - np.linspace(1e-4, 0.02, LEVELS)]))


def denoising_loss(
  noise_of: Callable, highest: int, params: Any, key: jax.Array, images: jax.Array
) -> jax.Array:
  """Mean squared error of the predicted noise at levels drawn from 1 to `highest`."""
  level_key, noise_key = jax.random.split(key)
  levels = jax.random.randint(level_key, (len(images),), 1, highest + 1)
  share = jnp.asarray(signal_share(), jnp.float32)[levels][:, None, None, None]
  noise = jax.random.normal(noise_key, images.shape)
  noisy = jnp.sqrt(share) * images + jnp.sqrt(1 - share) * noise
  return jnp.mean((noise_of(params, noisy, levels) - noise) ** 2)


def sampler(noise_of: Callable, level: int) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
  """Returns `sample(params, keys, images)`: images noised to `level` and sampled back to 0.

  Ancestral sampling over a subsequence of levels (Song et al., DDIM, 2021, with eta 1); the
  predicted image is clipped to what an image can be. Keys are one per example, images float
  `[batch, H, W, C]` in [-1, 1].

  Args:
    noise_of: (params, noisy images, levels `[batch]`) -> predicted noise.
    level: from which to go back.
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
    for index in range(count):  # dispatched one by one: a CPU's loops are slow, unrolling is long
      noisy = step(params, keys, noisy, sharding.replicate(np.int32(index)))
    return noisy

  return sample


def fit(loss: Loss, params: Any, clean: Split, training: Training, seed: int) -> Any:
  """Parameters that lower `loss` on random batches of clean images.

  Raises:
    UserError: the loss is not finite in the end.
  """
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
      "The purifier's loss is not finite: give it more clean images (evaluate.clean_fraction)."
    )
  return params


_keys = jax.jit(prng.example_keys)


@jax.jit
def _to_model(images: jax.Array) -> jax.Array:
  """Stored levels -> [-1, 1]."""
  return images.astype(jnp.float32) / 127.5 - 1


@jax.jit
def _to_levels(images: jax.Array) -> jax.Array:
  """[-1, 1] -> stored levels."""
  return jnp.clip(jnp.round(127.5 * (images + 1)), 0, 255).astype(jnp.uint8)


def _replaced(train: Split, purify: Callable, training: Training, seed: int) -> Split:
  """The split with `purify(keys, images)` of its images, batch by batch."""
  key, batch = prng.stream(seed, "purify"), _batch(training)
  result = np.empty(train.images.shape, np.uint8)
  for start in range(0, len(train), batch):
    rows = np.minimum(np.arange(start, start + batch), len(train) - 1)
    keys = _keys(key, sharding.shard(rows.astype(np.int32)))
    purified = _to_levels(purify(keys, _to_model(_placed(train.images, rows))))
    result[start : start + batch] = sharding.fetch(purified)[: len(train) - start]
  return dataclasses.replace(train, images=Images(result))


def _placed(images: Images, rows: np.ndarray) -> jax.Array:
  return sharding.shard_rows(lambda part: images[rows[part]], (len(rows), *images.shape[1:]))


def _batch(training: Training) -> int:
  """Rounded up to what the devices divide."""
  devices = jax.sharding.get_mesh().shape[AXIS]
  return -(-training.batch_size // devices) * devices
