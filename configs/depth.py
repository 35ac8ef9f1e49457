r"""Does the depth of a victim matter? MI-UE against six networks on a prefix of CIFAR-10.

The table of configs/compare.py with one method, one seed and no defence. The victims are a linear
classifier, networks of two and three layers, LeNet-5, VGG-11 and ResNet-18, the latter three narrow
enough for two CPU cores. The page has accuracy and mutual information over the victims in this
order.

    python -m miue_jax.main --config=configs/depth.py --config.data.path=FILE.npz --mode=compare
"""

import common
import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = common.small("depth")
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.victim.name = "resnet18"
  c.victim_fit.learning_rate = 0.02  # a linear classifier overshoots by 0.1

  c.compare.methods = ("miue",)
  c.compare.shared = common.shared(16)
  c.compare.recipes = {"miue": {**common.SMALL["miue_robust"]}}  # crops inside the delta step
  c.compare.victims = ("linear", "mlp2", "mlp3", "lenet5", "vgg11_bn", "resnet18")
  c.compare.seeds = (0,)
  return c
