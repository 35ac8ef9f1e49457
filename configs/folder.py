r"""Your own pictures: class folders under `train/` and `test/`, or one tree of class folders.

Pictures are resized to `data.size` x `data.size` pixels before they are protected. From one tree, a
fifth of the pictures is held out to test the protection. Sized for two CPU cores and some thousand
pictures.

    python -m miue_jax.main --config=configs/folder.py --config.data.path=DIR
    python -m miue_jax.main --config=configs/folder.py --config.data.path=DIR --mode=export

To protect the held-out pictures as well, use another workdir:

    python -m miue_jax.main --config=configs/folder.py --config.data.path=DIR \
        --config.data.test_fraction=0 --workdir=runs/all --mode=generate
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.small("folder", method, width=24)
  c.data.source = "folder"
  c.data.size = 64
  common.adjust(c.method, {"source": {"batch_size": 64}, "batch_size": 128})
  if method == "miue":
    c.method.update(epochs=10, step_size_start=1.6 / 255, step_size_end=1.6 / 255)
    c.method.update(augment="crop_flip", augment_poisoned=True)

  c.victim_fit.batch_size = 64
  c.victim_fit.epochs = 30
  return c
