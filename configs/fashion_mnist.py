"""10,000 images of Fashion-MNIST (28x28, gray), sized for two CPU cores.

The paper does not use this dataset, and the recipe has not been run in full. Expected are about
85 % clean and, by the duration of configs/npz.py, half an hour. Images: tensorflow-datasets,
prepared once (`pip install -e '.[prepare]'`).

    python -m miue_jax.main --config=configs/fashion_mnist.py
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.small("fashion_mnist", method)
  c.data.source = "tfds"
  c.data.name = "fashion_mnist"
  c.data.max_train = 10_000
  c.data.max_test = 2_000
  common.adjust(c.method, {"source": {"weight_decay": 1e-4}})
  if method == "miue":
    c.method.update(epochs=8, step_size_start=1 / 255, step_size_end=1 / 255)
    c.method.update(augment="crop_flip", augment_poisoned=True)

  c.victim_fit.epochs = 15
  c.victim_fit.weight_decay = 1e-4
  return c
