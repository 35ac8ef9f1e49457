"""What a run will cost, before anything is spent: `--mode=plan`.

Every figure except those of this machine comes from lowering the steps ahead of time, with shapes
in the place of data and, where this machine has too few devices, on imaginary CPU devices. Nothing
is trained.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping

import jax

from miue_jax.machine import meshes
from miue_jax.plan import chips, programs
from miue_jax.plan.cost import Cost
from miue_jax.plan.sizes import Sizes, known, read
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.report import tables
from miue_jax.settings.config import Config, Data
from miue_jax.settings.errors import UserError

_CALIBRATION_SECONDS = 2.0  # of steps of each program, after their compilation


@dataclasses.dataclass(frozen=True)
class Options:
  """What the user may say beside the config.

  Attributes:
    chips: the run is planned for so many.
    price: of one chip for one hour, in any currency; None leaves costs out.
    share: of a chip's peak that the steps are assumed to reach, in (0, 1].
    image_shape: height, width, channels; None asks the source.
    train_images: number of training images; 0 asks the source.
    classes: number of classes; 0 asks the source.
  """

  chips: int = 1
  price: float | None = None
  share: float = 0.4
  image_shape: tuple[int, int, int] | None = None
  train_images: int = 0
  classes: int = 0


@dataclasses.dataclass(frozen=True)
class Timing:
  """Of one program on this machine, in seconds: one step, and its compilation."""

  step: float
  compile: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """What was found out about a run.

  Attributes:
    config: of the run.
    options: of the user.
    size: of the dataset.
    batches: images of one step, by program.
    costs: of one step on `options.chips` devices, by program.
    runs: steps of the whole run, by program.
    resident: bytes on one device while the poison is made, by part.
    backend: that the steps were compiled for.
    timings: on this machine, by program.
    machine: how many devices this machine has, and of what kind.
  """

  config: Config
  options: Options
  size: Sizes
  batches: dict[str, int]
  costs: dict[str, Cost]
  runs: dict[str, int]
  resident: dict[str, int]
  backend: str
  timings: dict[str, Timing]
  machine: str

  @property
  def peak(self) -> int:
    """Most bytes on one device at one time."""
    # The delta step does not read the momentum, which is on the device all the same.
    delta = sum(self.resident.values()) + self.costs["delta"].temporaries
    return max(delta, *(cost.peak for cost in self.costs.values()))

  def flops(self, names: Iterable[str] = programs.NAMES) -> float:
    """Arithmetic of all steps of these programs, on all devices together."""
    return sum(self.runs[name] * self.costs[name].flops for name in names)

  def seconds(self, names: Iterable[str] = programs.NAMES) -> float:
    """Seconds of all steps of these programs on this machine."""
    return seconds(self.timings, {name: self.runs[name] for name in names})


def report(config: Config, options: Options) -> str:
  """Plans a run and returns the plan as Markdown; must run before any other use of jax.

  Raises:
    UserError: as `make` does.
  """
  return text(make(config, options))


def make(config: Config, options: Options) -> Plan:
  """Plans a run: times steps on this machine, then compiles them for `options.chips` devices.

  Raises:
    UserError: options that make no sense, devices that do not divide the batches, data that cannot
      be read where its size is neither known nor given.
  """
  _check(options)
  size = _size(config.data, options)
  offer_cpu_devices(options.chips)
  here = meshes.start(config.devices, config.batch_sizes)
  timings = calibrate(config, size)
  mesh = pod(options.chips)
  with jax.set_mesh(mesh):
    steps = {name: programs.build(name, config, size) for name in programs.NAMES}
    return Plan(
      config,
      options,
      size,
      {name: step.batch for name, step in steps.items()},
      {name: step.cost() for name, step in steps.items()},
      programs.runs(config, size),
      resident(steps["delta"]),
      mesh.devices.flat[0].platform,
      timings,
      f"{here.size} x {here.devices.flat[0].device_kind}",
    )


def calibrate(config: Config, size: Sizes) -> dict[str, Timing]:
  """Times every program on the mesh that is set, at the config's batches, with few images."""
  few = dataclasses.replace(size, train=min(size.train, 2 * max(config.batch_sizes)))
  timings = {}
  for name in programs.NAMES:
    watch = Stopwatch(programs.build(name, config, few))
    timings[name] = Timing(watch.measure(_CALIBRATION_SECONDS), watch.compile_seconds)
  return timings


def seconds(timings: Mapping[str, Timing], runs: Mapping[str, int]) -> float:
  """Seconds of so many steps of each program, with one compilation of each that runs."""
  return sum(
    count * timings[name].step + timings[name].compile for name, count in runs.items() if count
  )


def hours(flops: float, chip: chips.Chip, count: int, share: float) -> float:
  """Hours of so much arithmetic on `count` chips at a share of their peak."""
  return flops / (count * chip.tflops * 1e12 * share) / 3600


def resident(delta_step: programs.Program) -> dict[str, int]:
  """Bytes on one device of what lives there while the poison is made, on the mesh that is set."""
  (delta, *_), constants, _ = delta_step.abstract()
  parts = {
    "dataset (uint8 images, labels, ids)": constants.data.table,
    "delta (int16)": delta,
    "source model with momentum": constants.source,
    "order of the pass, masks": (constants.data.order, constants.perturbed),
  }
  return {name: _device_bytes(tree) for name, tree in parts.items()}


def text(plan: Plan) -> str:
  """The plan as Markdown."""
  return "\n\n".join((_work(plan), _memory(plan), _communication(plan), _hours(plan)))


def pod(count: int) -> jax.sharding.Mesh:
  """A mesh of so many devices: those of this machine if they suffice, else imaginary CPU devices.

  Raises:
    UserError: there are too few of those as well.
  """
  devices = jax.devices()
  if len(devices) < count:
    devices = jax.devices("cpu")
  if len(devices) < count:
    raise UserError(
      f"chips={count} but only {len(devices)} CPU devices could be made: unset "
      "JAX_NUM_CPU_DEVICES, or plan for fewer chips."
    )
  return jax.make_mesh(
    (count,), (meshes.AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices[:count]
  )


def offer_cpu_devices(count: int) -> None:
  """Lets jax make so many CPU devices, or one for each core where that is more, and starts it."""
  # Refused once a backend runs; `pod` then says what is missing.
  with contextlib.suppress(RuntimeError):
    jax.config.update("jax_num_cpu_devices", max(count, min(os.cpu_count() or 1, 8)))
  jax.devices()  # starts the backend: from here on nobody changes their number


def _check(options: Options) -> None:
  if options.chips < 1:
    raise UserError(f"chips is {options.chips}; plan for 1 or more.")
  if not 0 < options.share <= 1:
    raise UserError(f"share is {options.share:g}; a share of the peak lies in (0, 1].")
  if options.price is not None and not options.price >= 0:
    raise UserError(f"price is {options.price:g}; the price of a chip-hour is 0 or more.")
  if options.train_images < 0 or options.classes < 0:
    raise UserError("train_images and classes are 0 (ask the source) or more.")


def _size(data: Data, options: Options) -> Sizes:
  """The dataset's size: as the options say, else as is known, else as it is read."""
  shape, train, classes = options.image_shape, options.train_images, options.classes
  size = known(data)
  if size is None and shape and train and classes:
    # Of the test set nothing was said: one as large as is held out by default.
    size = Sizes(shape, train, max(1, round(train * Data.test_fraction)), classes)
  size = size or read(data)
  return Sizes(shape or size.image, train or size.train, size.test, classes or size.classes)


def _device_bytes(tree: object) -> int:
  shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
  return sum(jax.ShapeDtypeStruct(shape, dtype).size * dtype.itemsize for shape, dtype in shapes)


def _work(plan: Plan) -> str:
  config, size = plan.config, plan.size
  counts = programs.parameters(config, size)
  poison, victims = programs.passes(config, size)
  most = "at most " if config.method.stop_error else ""
  lines = [
    f"Plan of {config.name}: {size.train:,} training and {size.test:,} test images of "
    f"{'x'.join(map(str, size.image))}, {size.classes} classes.",
    f"Parameters: source {config.model.name} {counts['source']:,}, victim {config.victim.name} "
    f"{counts['victim']:,}. Dataset passes: {most}{poison + victims:,}, of which "
    f"{most}{poison:,} make the poison.",
  ]
  cells = [
    [
      name,
      f"{plan.runs[name]:,}",
      f"{plan.batches[name]:,}",
      f"{plan.costs[name].flops / plan.batches[name] / 1e9:.4g}",
      f"{plan.flops([name]):.3g}",
    ]
    for name in programs.NAMES
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
  cells = [[name, _megabytes(count)] for name, count in plan.resident.items()]
  cells += [
    [f"temporaries of {name}", _megabytes(cost.temporaries)] for name, cost in plan.costs.items()
  ]
  cells.append(["largest at one time", _megabytes(plan.peak)])
  columns = (("on each device", False), ("MB", True))
  note = (
    f"For {plan.options.chips} device(s), compiled by XLA for {plan.backend}; another backend "
    "needs other temporaries."
  )
  return f"{tables.markdown(columns, cells)}\n\n{note}"


def _communication(plan: Plan) -> str:
  if plan.options.chips == 1:
    return "One device: nothing is communicated."
  cells = []
  for name, cost in plan.costs.items():
    for kind in sorted({collective.kind for collective in cost.collectives}):
      members = [collective for collective in cost.collectives if collective.kind == kind]
      largest = max(members, key=lambda collective: collective.payload)
      more = f" and {len(largest.shapes) - 1} more" if len(largest.shapes) > 1 else ""
      payload, sent = sum(c.payload for c in members), sum(c.sent for c in members)
      cells.append(
        [name, kind, str(len(members)), f"{payload:,}", f"{sent:,.0f}", largest.shapes[0] + more]
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
  poison = ("delta", "source")
  cells = []
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
  notes = [
    f"Chips: an estimate that assumes {100 * share:g} % of the bfloat16 peak and communication "
    "hidden behind arithmetic; nothing was measured on them. "
    f"Of a batch a chip holds {plan.batches['delta'] / count:g} images in a delta step and "
    f"{plan.batches['source'] / count:g} in a source step; with few it reaches less.",
    "This machine: each step timed here, compilations included; reading data and writing "
    "checkpoints left out.",
    "Steps here: "
    + ", ".join(f"{name} {1000 * timing.step:.4g} ms" for name, timing in plan.timings.items())
    + ".",
  ]
  if plan.config.model.dtype != "bfloat16":
    notes.insert(1, "The config computes in float32: set model.dtype and victim.dtype to bfloat16.")
  if price is None:
    notes.append("Without --price of a chip-hour there is no cost.")
  return f"{tables.markdown(columns, cells)}\n\n{' '.join(notes)}"


def _amount(value: float) -> str:
  return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _megabytes(count: int) -> str:
  return f"{count / 1e6:,.2f}"
