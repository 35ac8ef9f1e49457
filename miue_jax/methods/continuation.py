"""Perturbs further images with the source model of an earlier generation.

  delta <- argmin  L(f(x + delta)),  |delta| <= eps     sign steps on the new images alone

The source model f is frozen. Images of the earlier generation are in the batches, perturbed as they
were published, and are compared but do not move: the objective of MI-UE, for example, compares the
images of a class, and a single new one has no other to be compared with.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from miue_jax import budget
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import source
from miue_jax.methods.alternating import Alternating
from miue_jax.methods.method import Sizes
from miue_jax.methods.stepwise import Procedure, Reading, Stepwise, Turn, delta_stage
from miue_jax.train import lanes, step


@dataclasses.dataclass(frozen=True, eq=False)
class Continuation(Stepwise):
  """A method that moves the perturbations of some images against a frozen source model.

  Attributes:
    method: The method of the earlier generation.
    variables: Variables of its source model, `Generated.source`.
    moving: Mask of the images that are perturbed, bool `[N]`.
    passes: Number of delta passes.
  """

  method: Alternating
  variables: dict[str, Any]
  moving: np.ndarray
  passes: int

  @property
  def settings(self) -> type:
    """Returns the class of the settings."""
    return self.method.settings

  def chosen(self, labels: np.ndarray, settings: Any, seed: int) -> np.ndarray:
    """Returns the mask of the images that are perturbed."""
    del labels, settings, seed
    return self.moving

  def procedure(self, settings: Any, sizes: Sizes, seed: int) -> Procedure:
    """Returns delta passes; see `stepwise.Stepwise`."""
    layout = lanes.lay_out(sizes.train, (settings.batch_size,), seed)
    steps = layout.steps(settings.batch_size, partial=True) * settings.steps
    outputs = self.method.outputs or sizes.classes
    module, optimiser = source.network(settings, outputs, sizes.image, steps)
    auxiliary = self.method.auxiliary(settings) if self.method.auxiliary else None
    sign_steps = self.method.sign_steps(module, settings, sizes.classes, auxiliary)
    freeze = source.freezer(module, sizes.image)
    move = delta_stage(settings, steps, settings.steps, sign_steps, freeze)

    def start(key, delta):
      parts = source.start(key, module, optimiser, sizes.image, auxiliary)
      params = self.variables["params"]
      model = step.State(params, self.variables["batch_stats"], optimiser.init(params))
      return parts | {"source": model, "compared": layout.ids >= 0}

    def turn(epoch: int) -> Turn:
      sizes = settings.step_size_start, settings.step_size_end
      return Turn(
        move,
        epoch,
        ("delta", epoch),
        (Reading("sums", f"delta, pass {epoch}", ("objective",)),),
        step_size=budget.step_size(epoch, self.passes, *sizes),
        save=epoch == self.passes,
      )

    turns = tuple(turn(epoch) for epoch in range(1, self.passes + 1))
    specs = {"compared": jax.P(AXIS)}
    return Procedure(layout, (move,), turns, ("objective",), start, specs)
