"""Writes a plan as Markdown and as JSON."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from miue_jax.plan import chips, roofline
from miue_jax.plan.plan import Plan, hours
from miue_jax.plan.programs import parameters
from miue_jax.report import tables


def markdown(plan: Plan) -> str:
  """Returns the plan as Markdown: work, memory, communication, hours."""
  if plan.exact:
    return "\n\n".join((_work(plan), _steps(plan), _communication(plan), _bounds(plan)))
  parts = [_work(plan), _memory(plan), _communication(plan), _hours(plan)]
  if plan.target:
    name, extra = plan.target.name, plan.target.extra
    parts.insert(
      0,
      f"The compiler of {name} is not installed: the steps were compiled for CPUs. The extra "
      f"{extra} makes the plan exact (pip install 'miue-jax[{extra}]').",
    )
  return "\n\n".join(parts)


def document(plan: Plan) -> dict[str, Any]:
  """Returns the plan as a JSON object, with FLOPs of all devices and bytes of one device."""
  steps: dict[str, dict[str, Any]] = {
    name: dataclasses.asdict(cost)
    | {"batch": plan.programs[name].batch, "steps": plan.programs[name].total, "sent": cost.sent}
    for name, cost in plan.costs.items()
  }
  made: dict[str, Any] = {
    "config": plan.config.name,
    "sizes": dataclasses.asdict(plan.size),
    "options": dataclasses.asdict(plan.options),
    "compiled for": plan.backend,
    "peak": plan.peak,
    "programs": steps,
  }
  if not plan.exact:
    return made | {"seconds here": {name: plan.seconds([name]) for name in plan.timings}}
  assert plan.target is not None
  for name, cost in plan.costs.items():
    least = roofline.bound(cost, plan.target)
    steps[name] |= {"bound": dataclasses.asdict(least), "bound by": least.by}
  return made | {
    "target": dataclasses.asdict(plan.target),
    "fits": _fits(plan),
    "hours at least": {name: roofline.hours(plan, [name]) for name in plan.programs},
  }


def _work(plan: Plan) -> str:
  config, size = plan.config, plan.size
  counts = parameters(config, size)
  networks = {"source": getattr(config.method, "model", config.victim), "victim": config.victim}
  listed = ", ".join(f"{role} {networks[role].name} {count:,}" for role, count in counts.items())
  poison, victims = plan.passes(plan.poison), plan.passes(["victim"])
  most = "at most " if getattr(config.method, "stop_error", 0) else ""
  lines = [
    f"Plan of {config.name}: {size.train:,} training and {size.test:,} test images of "
    f"{'x'.join(map(str, size.image))}, {size.classes} classes.",
    f"Parameters: {listed}. Dataset passes: {most}{poison + victims:,}, of which {most}{poison:,} "
    "make the poison.",
  ]
  cells = {
    "step": str,
    "steps of a run": lambda name: f"{plan.programs[name].total:,}",
    "batch": lambda name: f"{plan.programs[name].batch:,}",
    "GFLOP per image": lambda name: (
      f"{plan.costs[name].flops / plan.programs[name].batch / 1e9:.4g}"
    ),
    "FLOP of a run": lambda name: f"{plan.flops([name]):.3g}",
  }
  columns, rows = tables.build(plan.programs, cells, text=("step",))
  rows = [*rows, ["all", "", "", "", f"{plan.flops():.3g}"]]
  note = "FLOPs as XLA counts them; products with the zeros of a padding are left out."
  return "\n\n".join([*lines, tables.markdown(columns, rows), note])


def _memory(plan: Plan) -> str:
  cells = [
    [f"{part} ({name})", _megabytes(count)]
    for name, parts in plan.resident.items()
    for part, count in parts.items()
  ]
  cells += [
    [f"working memory of {name}", _megabytes(cost.temporaries)] for name, cost in plan.costs.items()
  ]
  cells.append(["largest at one time", _megabytes(plan.peak)])
  columns = (("on each device", False), ("MB", True))
  note = (
    f"For {plan.options.chips} device(s), compiled by XLA for {plan.backend}; another backend "
    "needs other working memory."
  )
  return f"{tables.markdown(columns, cells)}\n\n{note}"


def _fits(plan: Plan) -> bool:
  assert plan.target is not None
  return plan.peak <= plan.target.memory and all(cost.fits for cost in plan.costs.values())


def _steps(plan: Plan) -> str:
  """Returns what the target's compiler says of every step."""
  target, costs = plan.target, plan.costs
  assert target is not None
  bounds = {name: roofline.bound(cost, target) for name, cost in costs.items()}

  def fitting(write: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: write(name) if costs[name].fits else tables.MISSING

  cells = {
    "step": str,
    "GFLOP": lambda name: f"{costs[name].flops / target.devices / 1e9:,.4g}",
    "MB moved": fitting(lambda name: _megabytes(costs[name].moved)),
    "convolutions": fitting(lambda name: f"{costs[name].kernels.convolutions:,}"),
    "other kernels": fitting(lambda name: f"{costs[name].kernels.others:,}"),
    "copies and transposes": fitting(
      lambda name: f"{costs[name].kernels.copies + costs[name].kernels.transposes:,}"
    ),
    "MB sent": fitting(lambda name: f"{costs[name].sent / 1e6:,.3g}"),
    "MB arguments": lambda name: _megabytes(costs[name].arguments),
    "MB working memory": lambda name: _megabytes(costs[name].temporaries),
    "fits": lambda name: "yes" if costs[name].fits else "no",
    "compiled in s": lambda name: f"{costs[name].seconds:.0f}",
    "ms at least": fitting(lambda name: f"{1e3 * bounds[name].seconds:.3g}"),
    "bound by": fitting(lambda name: bounds[name].by),
  }
  table = tables.build(costs, cells, text=("step", "fits", "bound by"))
  chip = target.chip
  device = "chip" if chip.devices == 1 else f"device, of which a chip has {chip.devices}"
  notes = [
    f"One step on one {device}, compiled for {target.name} ({target.chips} x {chip.name}) by its "
    f"own compiler; nothing was run. Peaks of a chip: {chip.tflops:g} TFLOP/s in bfloat16, "
    f"{chip.bandwidth:g} GB/s of memory, {chip.link:g} GB/s of links, {chip.memory_gb:g} GB.",
    "Moved: operands and results of every operation in the memory of the device; what stays in "
    "the chip is left out. Other kernels contain copies and transposes.",
    f"Largest memory at one time: {_megabytes(plan.peak)} MB, which "
    f"{'fits' if _fits(plan) else 'does not fit'}.",
  ]
  if proposed := roofline.microbatch(plan):
    notes.append(f"The delta step may fit with --config.method.microbatch={proposed}: plan again.")
  return f"{tables.markdown(*table)}\n\n{' '.join(notes)}"


def _bounds(plan: Plan) -> str:
  """Returns the hours of a run by the roofline."""
  target, price, share = plan.target, plan.options.price, plan.options.share
  assert target is not None
  if not all(cost.fits for cost in plan.costs.values()):
    return "No hours: a step does not fit the memory of a chip."
  scales = {"lower bound": 1.0, f"at {100 * share:g} % of it": share}
  poison, spent = roofline.hours(plan, plan.poison), roofline.hours(plan, plan.programs)
  cells = {
    f"roofline of {target.name}": str,
    "hours, poison": lambda name: _amount(poison / scales[name]),
    "hours, all": lambda name: _amount(spent / scales[name]),
    "cost, all": lambda name: _cost(spent / scales[name] * target.chips, price),
  }
  table = tables.build(scales, cells, text=tuple(cells)[:1])
  notes = [
    "The bound of a step is the longest of arithmetic, memory and links at their peaks. No step "
    "reaches it; the share (--share) is an assumption, and nothing was measured on the chips. "
    "Compilation, reading data and writing checkpoints are left out.",
    *_advice(plan),
  ]
  return f"{tables.markdown(*table)}\n\n{' '.join(notes)}"


def _advice(plan: Plan) -> list[str]:
  advice, source = [], getattr(plan.config.method, "model", None)  # patterns have none
  networks = {"method.model.dtype": source, "victim.dtype": plan.config.victim}
  if slow := [key for key, found in networks.items() if found and found.dtype != "bfloat16"]:
    advice.append(f"The config computes in float32: set {' and '.join(slow)} to bfloat16.")
  if plan.options.price is None:
    advice.append("Without --price of a chip-hour there is no cost.")
  return advice


def _communication(plan: Plan) -> str:
  if plan.options.chips == 1:
    return "One device: nothing is communicated."
  cells = []
  for name, cost in plan.costs.items():
    for kind in sorted({collective.kind for collective in cost.collectives}):
      own = [collective for collective in cost.collectives if collective.kind == kind]
      largest = max(own, key=lambda collective: collective.payload)
      more = f" and {len(largest.shapes) - 1} more" if len(largest.shapes) > 1 else ""
      payload, sent = sum(c.payload for c in own), sum(c.sent for c in own)
      cells.append(
        [name, kind, str(len(own)), f"{payload:,}", f"{sent:,.0f}", largest.shapes[0] + more]
      )
  numbers = (("number", True), ("bytes of results", True), ("bytes sent by a device", True))
  columns = (("step", False), ("collective", False), *numbers, ("largest", False))
  note = f"In one step on {plan.options.chips} devices; bytes sent as a ring would."
  return f"{tables.markdown(columns, cells)}\n\n{note}"


def _hours(plan: Plan) -> str:
  count, share, price = plan.options.chips, plan.options.share, plan.options.price
  poison, everything = plan.flops(plan.poison), plan.flops()
  cells = {
    "chips": lambda chip: f"{count} x {chip.name}",
    "bf16 TFLOP/s each": lambda chip: f"{chip.tflops:g}",
    "GB each": lambda chip: (
      f"{chip.memory_gb:g}{'' if plan.peak <= chip.memory_gb * 1e9 else ' (too small)'}"
    ),
    "hours, poison": lambda chip: _amount(hours(poison, chip, count, share)),
    "hours, all": lambda chip: _amount(hours(everything, chip, count, share)),
    "cost, all": lambda chip: _cost(hours(everything, chip, count, share) * count, price),
  }
  columns, rows = tables.build(chips.CHIPS, cells, text=("chips",))
  here = (_amount(plan.seconds(names) / 3600) for names in (plan.poison, plan.programs))
  unknown = tables.MISSING
  rows = [*rows, [f"this machine ({plan.machine})", unknown, unknown, *here, unknown]]
  held = ", ".join(f"{p.batch / count:g} ({name})" for name, p in plan.programs.items())
  notes = [
    f"Chips: an estimate that assumes {100 * share:g} % of the bfloat16 peak and communication "
    "hidden behind arithmetic; nothing was measured on them. "
    f"A chip holds {held} images of a batch; with few it reaches less.",
    "This machine: each step timed here, compilations included; reading data and writing "
    "checkpoints left out.",
    "Steps here: "
    + ", ".join(f"{name} {1000 * timing.step:.4g} ms" for name, timing in plan.timings.items())
    + ".",
  ]
  notes += _advice(plan)
  return f"{tables.markdown(columns, rows)}\n\n{' '.join(notes)}"


def _amount(value: float) -> str:
  if value >= 0.1:
    return f"{value:,.2f}"
  return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def _cost(hours: float, price: float | None) -> str:
  return tables.MISSING if price is None else _amount(hours * price)


def _megabytes(count: int) -> str:
  return f"{count / 1e6:,.2f}"
