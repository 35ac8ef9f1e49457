"""A MedMNIST file, here PneumoniaMNIST: chest X-rays, gray 28x28, two classes of unequal size.

Accuracy alone hides a victim that always answers the larger class: read balanced accuracy and AUC.
The last condition trains on the images that an authorised user restores with the key.

One pattern for each class, started from noise and refined: with one perturbation for each image the
same victim kept a balanced accuracy of 60.6 % (6 epochs, one seed). The price: who averages many
published images of one class sees its pattern. A fifth of the normal X-rays stay as they are, so
that victims look for the patterns of pneumonia: left the choice, they look for those of either
class, and which decides on which side of 1/2 the AUC falls. Three poisons in turn, as victims of
one rank clean X-rays in the wrong order (docs/medical.md).

    python -m miue_jax.main --config=configs/medmnist.py --config.data.path=pneumoniamnist.npz
"""

import common
import ml_collections


def get_config(method: str = "miue") -> ml_collections.ConfigDict:
  """Returns the recipe, with the settings of a method."""
  c = common.small("medmnist", method)
  c.data.source = "npz"
  common.adjust(c.method, {"source": {"weight_decay": 1e-4}, "class_fractions": (0.8, 1.0)})
  c.method.ensemble = 3
  if method == "miue":
    c.method.update(epochs=4, step_size_start=1 / 255, step_size_end=1 / 255)
    c.method.update(augment="none", balanced=True, class_wise=True, init="random")

  c.victim_fit.epochs = 10
  c.victim_fit.weight_decay = 1e-4
  c.evaluate.conditions = ("clean", "random", "poison", "restored")
  return c
