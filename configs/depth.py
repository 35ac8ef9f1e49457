r"""Does the depth of a victim matter? MI-UE against six networks on a prefix of CIFAR-10.

The table of configs/compare.py with one method, one seed and no defence. The victims are a linear
classifier, networks of two and three layers, LeNet-5, VGG-11 and ResNet-18, the latter three narrow
enough for two CPU cores. The page has accuracy and mutual information over the victims in this
order.

    python -m miue_jax.main --config=configs/depth.py --config.data.path=FILE.npz --mode=compare
"""

import ml_collections

from miue_jax.settings import config

# As in configs/compare.py.
_MIUE = {
  "epochs": 16,
  "step_size_start": 1.6 / 255,
  "step_size_end": 0.6 / 255,
  "augment": "crop_flip",
  "augment_poisoned": True,
}


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "depth"
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.model.name = "small_cnn"
  c.model.width = 16
  c.source.augment = "crop_flip"
  c.source.weight_decay = 5e-4
  c.method.batch_size = 256
  c.method.checkpoint_every = 1

  c.victim.width = 16  # of the convolutional ones
  c.victim_fit.epochs = 20
  c.victim_fit.learning_rate = 0.02  # a linear classifier overshoots by 0.1
  c.victim_fit.weight_decay = 5e-4

  c.compare.methods = ("miue",)
  c.compare.recipes = {"miue": {"method": _MIUE}}
  c.compare.victims = ("linear", "mlp2", "mlp3", "lenet5", "vgg11_bn", "resnet18")
  c.compare.seeds = (0,)
  return c
