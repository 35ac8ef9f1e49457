r"""Compares eleven methods on a prefix of CIFAR-10 (configs/npz.py), sized for two CPU cores.

Every method has a recipe for a small network and some thousand images. Victims without a defence
have three seeds, victims with one of seven defences have one: 120 victims take about two hours, a
third of it for adversarial training (docs/comparison.md). The same command resumes.

    python -m miue_jax.main --config=configs/compare.py --config.data.path=FILE.npz --mode=compare

For external poisons, add `--config.compare.external="('mine=POISONED.npz',)"`. For a part of the
table, add `--config.compare.methods="('em', 'miue')"`.
"""

import common
import ml_collections

METHODS = (
  "random",
  "em",
  "ap",
  "ap_robust",
  "rem",
  "sem",
  "lsp",
  "ar",
  "ops",
  "miue",
  "miue_robust",
)


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = common.small("compare")
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.compare.methods = METHODS
  c.compare.shared = common.shared(16)
  # Separate dicts, so that overriding a key of one recipe does not change another.
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
