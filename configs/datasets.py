r"""One table over digits, a prefix of CIFAR-10 and chest X-rays, sized for two CPU cores.

The methods have recipes for a small network. Victims have no defence and three seeds, or JPEG-50
and one seed. Every dataset has a section in `compare.datasets` and a folder in the workdir. The
report has one table for each dataset and one for all of them.

    python -m miue_jax.main --config=configs/datasets.py --mode=compare \
        --config.compare.datasets.cifar10_prefix.data.path=FILE.npz \
        --config.compare.datasets.pneumonia.data.path=pneumoniamnist.npz
"""

import common
import ml_collections

# Changes of the settings for each dataset.
DATASETS = {
  "digits": {
    "data": {"source": "digits"},
    "compare": {
      "shared": {
        "source": {"augment": "crop", "weight_decay": 1e-4},
        "epochs": 32,
        "batch_size": 128,
        "step_size_start": 1.6 / 255,
        "step_size_end": 0.6 / 255,
        "augment": "crop",
        "augment_poisoned": True,
      },
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
  c = common.small("datasets")
  c.compare.datasets = DATASETS
  c.compare.methods = ("random", "em", "lsp", "miue")
  c.compare.shared = {**common.shared(16), **common.SMALL["miue"]}
  c.compare.recipes = {"em": {"steps": 10, "source_steps": 0, "stop_error": 0.0}}
  c.compare.defences = ("none", "jpeg50")
  c.compare.defended_seeds = (0,)
  return c
