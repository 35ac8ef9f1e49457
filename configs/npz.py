"""Any .npz file (x_train, y_train, x_test, y_test, or MedMNIST's names), sized for two CPU cores.

Measured on the first 5,170 images of CIFAR-10 (3 seeds of victims): 65.0 % clean, 64.0 % random
noise, 11.7 % MI-UE (13.6 and 15.1 % by poisons of seeds 1 and 2), in 22 minutes on two cores beside
another job. Easy data want crops inside the delta step as well: see configs/digits.py. The paper's
recipe for all of CIFAR-10 is configs/cifar10.py.

python -m miue_jax.main --config=configs/npz.py --config.data.path=FILE.npz
"""

import ml_collections

from miue_jax.settings import config


def get_config() -> ml_collections.ConfigDict:
  """Returns the recipe."""
  c = config.default()
  c.name = "npz"
  c.data.source = "npz"

  c.model.name = c.victim.name = "small_cnn"
  c.model.width = c.victim.width = 24
  c.source.augment = "crop_flip"
  c.source.weight_decay = 5e-4
  c.method.epochs = 16
  c.method.batch_size = 256
  c.method.step_size_start = 1.6 / 255
  c.method.step_size_end = 0.6 / 255
  c.method.checkpoint_every = 1

  c.victim_fit.epochs = 20
  c.victim_fit.learning_rate = 0.1
  c.victim_fit.weight_decay = 5e-4
  return c
