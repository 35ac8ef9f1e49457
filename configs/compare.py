r"""Compares ten methods on a prefix of CIFAR-10 (configs/npz.py), sized for two CPU cores.

Ten methods by recipes that fit a small network and some thousand images, without a defence over
three seeds and under seven defences with one: 110 victims in some 110 minutes, of which adversarial
training takes a third (docs/comparison.md); the same command resumes.

    python -m miue_jax.main --config=configs/compare.py --config.data.path=FILE.npz --mode=compare

For poisoned images of your own, add `--config.compare.bring="('mine=POISONED.npz',)"`. For a part
of the table, add `--config.compare.methods="('em', 'miue')"`.
"""

import math

import ml_collections

from miue_jax.settings import config

# Steps that shrink make a tenth of the papers' epochs enough.
_ALTERNATING = {"epochs": 16, "step_size_start": 1.6 / 255, "step_size_end": 0.6 / 255}
# The poisoned image is cropped and flipped inside the delta step, as victims will do.
_CROPPED = {**_ALTERNATING, "augment": "crop_flip", "augment_poisoned": True}
# Every pass starts anew, so its steps must cross the budget by themselves; a tenth of the attack.
_ROBUST = {
  **_CROPPED,
  "epochs": 10,
  "step_size_start": 1.6 / 255,
  "step_size_end": 1.6 / 255,
  "inner_epsilon": 4 / 255,
}
# Each has a dict of its own, so that overriding a key of one leaves the others alone.
RECIPES = {
  "random": {},
  "em": {"method": {**_CROPPED}},
  "ap": {
    "method": {
      "epochs": 30,
      "steps": 60,
      "step_size_start": 0.6 / 255,
      "init": "random",
      "augment": "crop_flip",
      "augment_poisoned": True,
    },
  },
  "rem": {"method": {**_ROBUST, "inner_steps": 2, "inner_step_size": 2.4 / 255}},
  "sem": {"method": {**_ROBUST, "inner_steps": 2, "inner_step_size": 2.4 / 255}},
  "lsp": {"method": {"norm": "l2", "epsilon": 6 / 255}},
  "ar": {"method": {"norm": "l2", "epsilon": 1 / math.sqrt(32 * 32 * 3)}},  # length 1
  "ops": {"method": {"norm": "none"}},
  "miue": {"method": {**_ALTERNATING}},
  "miue_robust": {"method": {**_CROPPED}},
}


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "compare"
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.model.name = c.victim.name = "small_cnn"
  c.model.width = c.victim.width = 16
  c.source.augment = "crop_flip"
  c.source.weight_decay = 5e-4
  c.method.batch_size = 256
  c.method.checkpoint_every = 1

  c.victim_fit.epochs = 20
  c.victim_fit.learning_rate = 0.1
  c.victim_fit.weight_decay = 5e-4

  c.compare.methods = tuple(RECIPES)
  c.compare.recipes = RECIPES
  c.compare.defences = (
    "none",
    "grayscale",
    "jpeg10",
    "jpeg50",
    "cutout",
    "mixup",
    "at4",
    "projection",
  )
  c.compare.seeds = (0, 1, 2)
  c.compare.defended_seeds = (0,)
  c.compare.published = "cifar10"
  return c
