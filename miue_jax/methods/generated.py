"""What every method returns."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Generated:
  """A finished perturbation, before it becomes an artefact.

  Attributes:
    delta: quantised, integers `[N, H, W, C]` in 255ths, in example order; None but on the lead
      process.
    seconds: spent, over all sittings.
    perturbed: ids of the perturbed images, None when all are.
    history: how generation went, by name; of a method with a source model, per epoch: source loss
      (nats), source accuracy (percent) and mean objective over the delta steps.
  """

  delta: np.ndarray | None
  seconds: float
  perturbed: np.ndarray | None
  history: dict[str, list[float]]
