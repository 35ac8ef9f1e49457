"""Provides orthogonal projection: removes the directions by which a linear model separates classes.

Sandoval-Segura et al., "What Can We Learn from Unlearnable Datasets?", NeurIPS 2023: fit a softmax
regression without bias to the poisoned pixels, and project the images onto the orthogonal
complement of its weight vectors, one for each class. The defence is effective against perturbations
that are similar within a class.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax import objectives
from miue_jax.data.dataset import Split
from miue_jax.defences.defence import Defence, each
from miue_jax.machine import sharding

EPOCHS = 20
LEARNING_RATE = 0.1  # divided by 10 after half and after three quarters of the epochs
BATCH = 128


def preprocess(train: Split, clean: Split | None, seed: int) -> Split:
  """Fits the linear model to `train` and removes the span of its weights from the images."""
  basis, _ = np.linalg.qr(fit_linear(train, seed))
  return each(lambda images: remove(images, basis))(train, clean, seed)


PROJECTION = Defence("projection", preprocess=preprocess)


def fit_linear(train: Split, seed: int) -> np.ndarray:
  """Returns the weights of a softmax regression without bias on pixels in [0, 1].

  The initial weights are U(-1, 1) / sqrt(pixels), as in PyTorch's linear layer.

  Returns:
    Float32 `[pixels, classes]`.
  """
  generator = np.random.default_rng(seed)
  batch = min(BATCH, len(train))
  steps = len(train) // batch
  pixels, classes = int(np.prod(train.images.shape[1:])), int(train.labels.max()) + 1
  drops = {EPOCHS // 2 * steps: 0.1, 3 * EPOCHS // 4 * steps: 0.1}
  optimiser = optax.sgd(optax.piecewise_constant_schedule(LEARNING_RATE, drops))

  @jax.jit
  def step(weights, state, images, labels):
    flat = images.reshape(batch, pixels).astype(jnp.float32) / 255
    gradient = jax.grad(lambda w: jnp.mean(objectives.cross_entropy(flat @ w, labels)))(weights)
    updates, state = optimiser.update(gradient, state)
    return optax.apply_updates(weights, updates), state

  start = generator.uniform(-1, 1, (pixels, classes)).astype(np.float32) / np.sqrt(pixels)
  weights = sharding.replicate(start.astype(np.float32))
  state = sharding.replicate(optimiser.init(weights))
  for _ in range(EPOCHS):
    for rows in generator.permutation(len(train))[: steps * batch].reshape(steps, batch):
      examples = sharding.replicate((train.images[rows], train.labels[rows].astype(np.int32)))
      weights, state = step(weights, state, *examples)
  return sharding.fetch(weights)


def remove(images: np.ndarray, basis: np.ndarray) -> np.ndarray:
  """Removes from uint8 images `[N, H, W, C]` their part in the span of orthonormal columns.

  Args:
    images: Images to project.
    basis: Orthonormal columns `[pixels, classes]`.

  Returns:
    Projected images, rounded and clipped to uint8.
  """
  flat = images.reshape(len(images), -1).astype(np.float32)
  rest = flat - (flat @ basis) @ basis.T
  return np.clip(np.rint(rest), 0, 255).astype(np.uint8).reshape(images.shape)
