"""Adversarial training: learn from the worst image within a radius of each one.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, with the
recipe that is usual against unlearnable examples: PGD-10 with steps of 2/255 whatever the radius, a
random start, BatchNorm in inference mode while the attack is made; SGD with rate 0.1, a tenth of it
after 40 % and 80 % of the epochs, and weight decay 5e-4.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.data.dataset import Split
from miue_jax.defences.defence import Defence
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.config import Fit
from miue_jax.train import lanes, prediction, step
from miue_jax.transforms import hooks as hooks_lib
from miue_jax.transforms.hooks import Targets

STEPS = 10
STEP_SIZE = 2 / 255


def adversarial_training(radius: int) -> Defence:
  """Adversarial training within `radius` 255ths; rows carry the accuracy under attack, too."""
  attack = functools.partial(pgd, radius=radius / 255)
  return Defence(
    f"at{radius}",
    hooks=hooks_lib.Hooks(adversary=attack),
    recipe=recipe,
    measures=functools.partial(robust_accuracy, attack=attack),
  )


def recipe(config: Fit) -> Fit:
  """The recipe of adversarial training; epochs, batch size and momentum stay as they are."""
  return dataclasses.replace(config, learning_rate=0.1, weight_decay=5e-4, schedule="steps")


def pgd(keys: jax.Array, images: jax.Array, loss: hooks_lib.Loss, *, radius: float) -> jax.Array:
  """Images within `radius` (in [0, 1] pixel units) that raise `loss`, by sign steps.

  Args:
    keys: of the random start, one per example.
    images: float `[batch, height, width, channel]` in [0, 1].
    loss: images -> one loss per row.
    radius: largest change of a value.
  """
  gradient = jax.grad(lambda x: jnp.sum(loss(x)))

  def projected(x):
    return jnp.clip(jnp.clip(x, images - radius, images + radius), 0.0, 1.0)

  def step(x):
    return projected(x + STEP_SIZE * jnp.sign(gradient(x)))

  shape = images.shape[1:]
  start = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-radius, maxval=radius))(keys)
  return loops.iterated(step, projected(images + start), STEPS)


def robust_accuracy(
  module: nn.Module, state: step.State, test: Split, seed: int, *, attack: hooks_lib.Adversary
) -> dict[str, float]:
  """Accuracy (percent) on test images that `attack` changed, as a column of a row."""
  key, count = prng.stream(seed, "attack"), len(test)
  devices = jax.sharding.get_mesh().size
  batch = -(-min(prediction.EVALUATION_BATCH, count) // devices) * devices
  hits = _attacked(module, attack, jax.sharding.get_mesh())
  correct = 0
  for start in range(0, count, batch):
    rows = np.arange(start, start + batch)
    ids = np.where(rows < count, rows, lanes.EMPTY).astype(np.int32)
    examples = lanes.Layout(ids, count).place(test)
    correct += int(np.sum(sharding.fetch(hits(state.variables, key, examples))))
  return {"robust_test_accuracy": round(100 * correct / count, 3)}


@functools.lru_cache(maxsize=2)
def _attacked(module: nn.Module, attack: hooks_lib.Adversary, mesh: jax.sharding.Mesh):
  """`(variables, key, examples) -> bool [batch]`: which are classified correctly under attack."""
  del mesh  # part of the key: a compiled program belongs to its mesh

  def local(variables, key, examples):
    def logits(images):
      return module.apply(variables, images, train=False)[1]

    targets = Targets.hard(examples.labels)
    images = attack(
      prng.example_keys(key, examples.ids),
      examples.images.astype(jnp.float32) / 255,
      lambda images: targets.loss(logits(images)),
    )
    hits = jnp.argmax(logits(images), axis=1) == examples.labels
    return hits & (examples.ids != lanes.EMPTY)

  specs = (jax.P(), jax.P(), jax.P(AXIS))
  return jax.jit(jax.shard_map(local, in_specs=specs, out_specs=jax.P(AXIS)))
