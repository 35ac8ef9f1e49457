"""Bounds the duration of a compiled step by the peaks of a chip (Williams et al., 2009).

A step takes at least as long as its arithmetic at the peak rate, as its bytes at the bandwidth of
the memory, and as the bytes that it sends at the bandwidth of all links of a chip.
"""

import dataclasses
from collections.abc import Iterable

from miue_jax.plan.cost import Cost
from miue_jax.plan.plan import Plan
from miue_jax.plan.targets import Target


@dataclasses.dataclass(frozen=True)
class Bound:
  """Bounds the seconds of one step from below.

  Attributes:
    arithmetic: Seconds of the FLOPs.
    memory: Seconds of the bytes that a chip moves.
    link: Seconds of the bytes that a chip sends.
  """

  arithmetic: float
  memory: float
  link: float

  @property
  def seconds(self) -> float:
    """Returns the largest of the three."""
    return max(dataclasses.astuple(self))

  @property
  def by(self) -> str:
    """Returns the name of the largest of the three."""
    return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def bound(cost: Cost, target: Target) -> Bound:
  """Returns the bound of a step with this cost on the chips of a target."""
  chip = target.chip
  return Bound(
    cost.flops / (target.chips * chip.tflops * 1e12),
    cost.moved * chip.devices / (chip.bandwidth * 1e9),
    cost.sent * chip.devices / (chip.link * 1e9),
  )


def hours(plan: Plan, names: Iterable[str]) -> float:
  """Returns the hours that all steps of these programs take at least on the target of a plan."""
  assert plan.target is not None
  return sum(
    plan.programs[name].total * bound(plan.costs[name], plan.target).seconds / 3600
    for name in names
  )


def microbatch(plan: Plan) -> int | None:
  """Returns the largest `method.microbatch` with which the poison may fit a chip, or None.

  The working memory is assumed to be proportional to the images that are computed at a time.
  """
  target, method = plan.target, plan.config.method
  assert target is not None
  batch, current = getattr(method, "batch_size", 0), getattr(method, "microbatch", None)
  cost = plan.costs.get("delta")
  if current is None or cost is None or cost.fits:
    return None
  room = target.memory - cost.arguments
  most = (current or batch) * room / max(cost.temporaries, 1)
  fitting = (n for n in range(batch // 2, 0, -1) if batch % n == 0 and n % target.devices == 0)
  return next((n for n in fitting if n <= most and cost.temporaries), None)
