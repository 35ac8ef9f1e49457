"""Writes a plan as Markdown and as JSON."""

import dataclasses
from typing import Any

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
  cells = [
    [
      name,
      f"{program.total:,}",
      f"{program.batch:,}",
      f"{plan.costs[name].flops / program.batch / 1e9:.4g}",
      f"{plan.flops([name]):.3g}",
    ]
    for name, program in plan.programs.items()
  ]
  cells.append(["all", "", "", "", f"{plan.flops():.3g}"])
  columns = (
    ("step", False),
    ("steps of a run", True),
    ("batch", True),
    ("GFLOP per image", True),
    ("FLOP of a run", True),
  )
  note = "FLOPs as XLA counts them; products with the zeros of a padding are left out."
  return "\n\n".join([*lines, tables.markdown(columns, cells), note])


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
  target = plan.target
  assert target is not None
  cells = []
  for name, cost in plan.costs.items():
    least = roofline.bound(cost, target)
    cells.append(
      [
        name,
        f"{cost.flops / target.devices / 1e9:,.4g}",
        _megabytes(cost.moved) if cost.fits else tables.MISSING,
        f"{cost.sent / 1e6:,.3g}" if cost.fits else tables.MISSING,
        _megabytes(cost.arguments),
        _megabytes(cost.temporaries),
        "yes" if cost.fits else "no",
        f"{cost.seconds:.0f}",
        f"{1e3 * least.seconds:.3g}" if cost.fits else tables.MISSING,
        least.by if cost.fits else tables.MISSING,
      ]
    )
  columns = (
    ("step", False),
    ("GFLOP", True),
    ("MB moved", True),
    ("MB sent", True),
    ("MB arguments", True),
    ("MB working memory", True),
    ("fits", False),
    ("compiled in s", True),
    ("ms at least", True),
    ("bound by", False),
  )
  chip = target.chip
  device = "chip" if chip.devices == 1 else f"device, of which a chip has {chip.devices}"
  notes = [
    f"One step on one {device}, compiled for {target.name} ({target.chips} x {chip.name}) by its "
    f"own compiler; nothing was run. Peaks of a chip: {chip.tflops:g} TFLOP/s in bfloat16, "
    f"{chip.bandwidth:g} GB/s of memory, {chip.link:g} GB/s of links, {chip.memory_gb:g} GB.",
    "Moved: operands and results of every operation in the memory of the device; what stays in "
    "the chip is left out.",
    f"Largest memory at one time: {_megabytes(plan.peak)} MB, which "
    f"{'fits' if _fits(plan) else 'does not fit'}.",
  ]
  if proposed := roofline.microbatch(plan):
    notes.append(f"The delta step may fit with --config.method.microbatch={proposed}: plan again.")
  return f"{tables.markdown(columns, cells)}\n\n{' '.join(notes)}"


def _bounds(plan: Plan) -> str:
  """Returns the hours of a run by the roofline."""
  target, price, share = plan.target, plan.options.price, plan.options.share
  assert target is not None
  if not all(cost.fits for cost in plan.costs.values()):
    return "No hours: a step does not fit the memory of a chip."
  cells = []
  for name, part in (("lower bound", 1.0), (f"at {100 * share:g} % of it", share)):
    spent = roofline.hours(plan, plan.programs) / part
    cells.append(
      [
        name,
        _amount(roofline.hours(plan, plan.poison) / part),
        _amount(spent),
        tables.MISSING if price is None else _amount(spent * target.chips * price),
      ]
    )
  columns = (
    (f"roofline of {target.name}", False),
    ("hours, poison", True),
    ("hours, all", True),
    ("cost, all", True),
  )
  notes = [
    "The bound of a step is the longest of arithmetic, memory and links at their peaks. No step "
    "reaches it; the share (--share) is an assumption, and nothing was measured on the chips. "
    "Compilation, reading data and writing checkpoints are left out.",
    *_advice(plan),
  ]
  return f"{tables.markdown(columns, cells)}\n\n{' '.join(notes)}"


def _advice(plan: Plan) -> list[str]:
  source, advice = getattr(plan.config.method, "model", plan.config.victim), []
  if source.dtype != "bfloat16":
    advice.append(
      "The config computes in float32: set method.model.dtype and victim.dtype to bfloat16."
    )
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
  columns = (
    ("step", False),
    ("collective", False),
    ("number", True),
    ("bytes of results", True),
    ("bytes sent by a device", True),
    ("largest", False),
  )
  note = f"In one step on {plan.options.chips} devices; bytes sent as a ring would."
  return f"{tables.markdown(columns, cells)}\n\n{note}"


def _hours(plan: Plan) -> str:
  count, share, price = plan.options.chips, plan.options.share, plan.options.price
  poison, cells = plan.poison, []
  for chip in chips.CHIPS:
    spent = hours(plan.flops(), chip, count, share)
    fits = plan.peak <= chip.memory_gb * 1e9
    cells.append(
      [
        f"{count} x {chip.name}",
        f"{chip.tflops:g}",
        f"{chip.memory_gb:g}{'' if fits else ' (too small)'}",
        _amount(hours(plan.flops(poison), chip, count, share)),
        _amount(spent),
        tables.MISSING if price is None else _amount(spent * count * price),
      ]
    )
  cells.append(
    [
      f"this machine ({plan.machine})",
      tables.MISSING,
      tables.MISSING,
      _amount(plan.seconds(poison) / 3600),
      _amount(plan.seconds() / 3600),
      tables.MISSING,
    ]
  )
  columns = (
    ("chips", False),
    ("bf16 TFLOP/s each", True),
    ("GB each", True),
    ("hours, poison", True),
    ("hours, all", True),
    ("cost, all", True),
  )
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
  return f"{tables.markdown(columns, cells)}\n\n{' '.join(notes)}"


def _amount(value: float) -> str:
  return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _megabytes(count: int) -> str:
  return f"{count / 1e6:,.2f}"
