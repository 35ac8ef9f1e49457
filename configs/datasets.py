r"""One table over digits, a prefix of CIFAR-10 and chest X-rays, sized for two CPU cores.

Methods by recipes that fit a small network, without a defence and under JPEG-50, victims of three
seeds. Every data set has its own section of `compare.datasets` and its own folder in the workdir.
The report has one table for each and one with all side by side. For others, change the dict.

    python -m miue_jax.main --config=configs/datasets.py --mode=compare \
        --config.compare.datasets.cifar10_prefix.data.path=FILE.npz \
        --config.compare.datasets.pneumonia.data.path=pneumoniamnist.npz
"""

import ml_collections

from miue_jax.settings import config

# By data set: what differs from what all share, which is below.
DATASETS = {
  "digits": {
    "data": {"source": "digits"},
    "source": {"augment": "crop", "weight_decay": 1e-4},
    "method": {
      "epochs": 20,
      "batch_size": 128,
      "step_size_start": 1 / 255,
      "step_size_end": 1 / 255,
      "augment": "crop",
      "augment_poisoned": True,
    },
    "victim_fit": {"epochs": 15, "augment": "crop"},
  },
  "cifar10_prefix": {
    "data": {"source": "npz", "path": "cifar10_prefix.npz", "max_train": 5120},
    "compare": {"published": "cifar10"},
  },
  "pneumonia": {"data": {"source": "npz", "path": "pneumoniamnist.npz"}},
}


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "datasets"
  c.model.name = c.victim.name = "small_cnn"
  c.model.width = c.victim.width = 16
  c.source.augment = "crop_flip"
  c.source.weight_decay = 5e-4

  c.method.epochs = 16
  c.method.batch_size = 256
  c.method.step_size_start = 1.6 / 255
  c.method.step_size_end = 0.6 / 255

  c.victim_fit.epochs = 20
  c.victim_fit.learning_rate = 0.1
  c.victim_fit.weight_decay = 5e-4

  c.compare.datasets = DATASETS
  c.compare.methods = ("random", "em", "lsp", "miue")
  c.compare.recipes = {"lsp": {"method": {"norm": "l2", "epsilon": 6 / 255}}}
  c.compare.defences = ("none", "jpeg50")
  c.compare.defended_seeds = (0,)
  return c
