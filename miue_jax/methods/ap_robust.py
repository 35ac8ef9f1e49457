"""AP against input transformations: source model and attack see transformed images.

  theta <- argmin E_T  CE(f(T(x)), y)                                    source model
  delta <- argmin E_T  CE(f(T(x + delta)), y + 1 mod C),  |delta| <= eps

T is drawn for every image and step from `transformations`, and random crops and flips follow, as in
AP. A victim then finds the features of the next class with and without a transformation
(expectation over transformations: Athalye et al., ICML 2018). The paper of AP does not have this
variant; docs/robust.md measures it.
"""

from miue_jax.methods import ap
from miue_jax.methods.shared_settings import Transformations
from miue_jax.settings.schema import Count, settings


@settings
class Settings(ap.Settings):
  """Settings of the robust variant: those of AP, with one restart."""

  name: str = "ap_robust"
  restarts: Count = 1
  # Input transformations, one drawn for each image and step: none | grayscale | jpegQUALITY
  transformations: Transformations = ("none", "grayscale", "jpeg50")
