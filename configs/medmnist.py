"""A file of a 2D subset of MedMNIST with one label for each image, of 28 to 224 pixels.

It was chosen for PneumoniaMNIST, the only subset on which it was measured: chest X-rays, gray
28x28, two classes of unequal size. It runs on all others too; of more than two classes the first
one keeps a fifth of its images clean. Images of 224 x 224 pixels take 64 times as long as 28 x 28:
`--config.data.size=64` shrinks them. ChestMNIST, which has 14 findings for each image, is refused.

Accuracy alone does not show a victim that always predicts the larger class: read balanced accuracy
and AUC. The last condition trains on the images that an authorised user restores with the key.

The perturbation is one pattern for each class, which starts as noise. With one perturbation for
each image, the same victim kept a balanced accuracy of 60.6 % (6 epochs, one seed). A disadvantage
is that the average of many published images of one class shows its pattern. A fifth of the normal
X-rays stay clean, so that victims learn the patterns of pneumonia and not those of the normal
class. Each image gets one of three poisons, because victims of a single poison rank clean X-rays in
the wrong order (docs/medical.md).

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
