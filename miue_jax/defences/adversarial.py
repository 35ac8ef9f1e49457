"""Provides adversarial training: victims learn from the worst image within a radius of each one.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, with the
usual recipe against unlearnable examples: PGD-10 with steps of 2/255 at every radius, a random
start, and BatchNorm in inference mode during the attack; SGD with rate 0.1, divided by 10 after
40 % and 80 % of the epochs, and weight decay 5e-4.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.data.dataset import Split
from miue_jax.defences.defence import Defence
from miue_jax.machine import prng, sharding
from miue_jax.machine.meshes import AXIS
from miue_jax.settings.config import Fit
from miue_jax.train import lanes, prediction
from miue_jax.train.step import State
from miue_jax.transforms import Adversary, Hooks, Targets, pgd

STEPS = 10
STEP_SIZE = 2 / 255


def adversarial_training(radius: int) -> Defence:
  """Returns adversarial training within `radius` 255ths; rows also hold the robust accuracy."""
  attack = functools.partial(pgd, radius=radius / 255, step_size=STEP_SIZE, steps=STEPS)
  return Defence(
    f"at{radius}",
    hooks=Hooks(adversary=attack),
    recipe=recipe,
    measures=functools.partial(robust_accuracy, attack=attack),
  )


def recipe(config: Fit) -> Fit:
  """Returns the recipe of adversarial training with the epochs and batch size of `config`."""
  return dataclasses.replace(config, learning_rate=0.1, weight_decay=5e-4, schedule="steps")


def robust_accuracy(
  module: nn.Module, state: State, test: Split, seed: int, *, attack: Adversary
) -> dict[str, float]:
  """Returns the accuracy (percent) on test images that `attack` changed, as a column of a row."""
  key, count = prng.stream(seed, "attack"), len(test)
  batch = prediction.evaluation_batch(count)
  hits = _attacked(module, attack, jax.sharding.get_mesh())
  correct = 0
  for start in range(0, count, batch):
    rows = np.arange(start, start + batch)
    ids = np.where(rows < count, rows, lanes.EMPTY).astype(np.int32)
    examples = lanes.Layout(ids, count).place(test)
    correct += int(np.sum(sharding.fetch(hits(state.variables, key, examples))))
  return {"robust_test_accuracy": round(100 * correct / count, 3)}


@functools.lru_cache(maxsize=2)
def _attacked(module: nn.Module, attack: Adversary, mesh: jax.sharding.Mesh):
  """Returns a compiled function that finds the images classified correctly under attack."""
  del mesh  # part of the cache's key: a compiled program belongs to its mesh

  def local(variables, key, table):
    examples = table.batch(slice(None))

    def logits(images):
      return models.infer(module, variables, images)[1]

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
