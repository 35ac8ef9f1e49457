r"""MI-UE against victims of different depth, on a prefix of CIFAR-10, sized for two CPU cores.

It is the comparison (configs/compare.py) of one method with one seed and no defence. The victims
are a linear classifier, MLPs of two and three layers, LeNet-5, VGG-11 and ResNet-18. The report
plots accuracy and mutual information over the victims in this order.

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
  c.victim_fit.learning_rate = 0.02  # 0.1 is too large for a linear classifier

  c.compare.methods = ("miue",)
  c.compare.shared = common.shared(16)
  c.compare.recipes = {"miue": {**common.SMALL["miue_robust"]}}  # the delta step crops
  c.compare.victims = ("linear", "mlp2", "mlp3", "lenet5", "vgg11_bn", "resnet18")
  c.compare.seeds = (0,)
  return c
