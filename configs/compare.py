r"""Compares ten methods on a prefix of CIFAR-10 (configs/npz.py), sized for two CPU cores.

Ten methods by recipes that fit a small network and some thousand images, without a defence over
three seeds and under seven defences with one: 110 victims in some 110 minutes, of which adversarial
training takes a third (docs/comparison.md); the same command resumes.

    python -m miue_jax.main --config=configs/compare.py --config.data.path=FILE.npz --mode=compare

For external poisons, add `--config.compare.external="('mine=POISONED.npz',)"`. For a part of the
table, add `--config.compare.methods="('em', 'miue')"`.
"""

import common
import ml_collections

METHODS = ("random", "em", "ap", "rem", "sem", "lsp", "ar", "ops", "miue", "miue_robust")


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = common.small("compare")
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.compare.methods = METHODS
  c.compare.shared = common.shared(16)
  # Each has a dict of its own, so that overriding a key of one leaves the others alone.
  c.compare.recipes = {name: {**common.SMALL.get(name, {})} for name in METHODS}
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
