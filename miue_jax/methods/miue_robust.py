"""MI-UE against input transformations: both sides see transformed images.

  theta <- argmin E_T  CE(f(T(x + delta)), y)                    source model, one pass
  delta <- argmin E_T  L_sim + zeta L_dist of f(T(x + delta)),   |delta| <= eps
  repeat for every epoch

T is drawn for every image and step from `transformations`: none, grayscale, JPEG. The features of a
class collapse for all T, so that a victim finds the shortcut with and without a transformation
(expectation over transformations: Athalye et al., ICML 2018). The paper does not have this variant,
and such transformations defeat its poison; docs/robust.md measures effect and cost.
"""

from miue_jax.methods import miue
from miue_jax.methods.shared_settings import Transformations
from miue_jax.settings.config import Augmentation, Sgd
from miue_jax.settings.schema import Count, Positive, settings


@settings
class Settings(miue.Settings):
  """Settings of the robust variant, with steps that shrink as in docs/fast.md."""

  name: str = "miue_robust"
  epochs: Count = 16
  step_size_start: Positive = 1.6 / 255
  step_size_end: Positive = 0.6 / 255
  augment: Augmentation = "crop_flip"
  augment_poisoned: bool = True
  source: Sgd = Sgd(weight_decay=5e-4, augment="crop_flip")
  # Input transformations, one drawn for each image and step: none | grayscale | jpegQUALITY
  transformations: Transformations = ("none", "grayscale", "jpeg50")
