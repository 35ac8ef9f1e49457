r"""Your own pictures: class folders under `train/` and `test/`, or one tree of class folders.

Pictures become `data.size` x `data.size` pixels before they are protected; from one tree a fifth is
held out to prove the protection. Sized for two CPU cores and some thousand pictures.

    python -m miue_jax.main --config=configs/folder.py --config.data.path=DIR
    python -m miue_jax.main --config=configs/folder.py --config.data.path=DIR --mode=export

When the proof convinces you, protect every picture, the held-out ones too, in a workdir of its own:

    python -m miue_jax.main --config=configs/folder.py --config.data.path=DIR \
        --config.data.test_fraction=0 --workdir=runs/all --mode=generate
"""

import ml_collections

from miue_jax.settings import config


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "folder"
  c.data.source = "folder"
  c.data.size = 64

  c.model.name = c.victim.name = "small_cnn"
  c.model.width = c.victim.width = 24
  c.source.batch_size = 64
  c.source.augment = "crop_flip"
  c.source.weight_decay = 5e-4
  c.method.epochs = 10
  c.method.batch_size = 128
  c.method.step_size_start = 1.6 / 255
  c.method.step_size_end = 1.6 / 255
  c.method.augment = "crop_flip"
  c.method.augment_poisoned = True
  c.method.checkpoint_every = 1

  c.victim_fit.batch_size = 64
  c.victim_fit.epochs = 30
  c.victim_fit.learning_rate = 0.1
  c.victim_fit.weight_decay = 5e-4
  return c
