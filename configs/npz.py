"""Any .npz file (x_train, y_train, x_test, y_test, or MedMNIST's names), sized for two CPU cores.

Measured on the first 5,170 images of CIFAR-10 (3 seeds of victims): 65.0 % clean, 64.0 % random
noise, 11.7 % MI-UE (13.6 and 15.1 % by poisons of seeds 1 and 2), in 22 minutes on two cores that
ran another job as well. Easy data need crops inside the delta step: see configs/digits.py. The
recipe of the paper for all of CIFAR-10 is configs/cifar10.py.

    python -m miue_jax.main --config=configs/npz.py --config.data.path=FILE.npz
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.small("npz", method, width=24)
  c.data.source = "npz"
  return c
