"""Predicts arithmetic, memory, communication and duration of a run: `--mode=plan`.

Nothing is trained. The steps are compiled for shapes instead of data: by the compiler of a target
(`targets`) where that is installed, otherwise on virtual CPU devices where this machine has too few
devices. Only the hours of this machine come from timing a few steps.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from miue_jax.machine import apart, meshes
from miue_jax.methods.delta import Delta
from miue_jax.plan import chips, programs, targets
from miue_jax.plan.cost import Cost
from miue_jax.plan.programs import Program
from miue_jax.plan.sizes import Sizes, known, read
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config, Data
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, step

_logger = logging.getLogger(__name__)

_MOST_CHIPS = 1024  # virtual CPU devices that the compiler is given
_MOST_IMAGES = 20_000_000  # their order is an array in memory
_MOST_CLASSES = 100_000
_CALIBRATION_SECONDS = 2.0  # duration of the timed steps of each program

# Names of the parts of memory that a generation always holds, by the type of their arrays.
_PARTS = {
  lanes.Table: "dataset (uint8 images, labels, ids)",
  Delta: "delta (int16)",
  step.State: "networks with optimiser state",
  step.Frozen: "networks with optimiser state",
}


@dataclasses.dataclass(frozen=True)
class Options:
  """The assumptions of a plan that the config does not contain.

  Attributes:
    chips: Number of chips that the run is planned for.
    price: Price of one chip for one hour, in any currency; None omits the cost.
    share: Share of a chip's peak that the steps are assumed to reach, in (0, 1].
    image_shape: Height, width, channels; None reads them from the data.
    train_images: Number of training images; 0 reads it from the data.
    classes: Number of classes; 0 reads it from the data.
    target: Chips to compile for, such as `v5e:8x8`; None plans for `chips` of any kind.
  """

  chips: int = 1
  price: float | None = None
  share: float = 0.4
  image_shape: tuple[int, int, int] | None = None
  train_images: int = 0
  classes: int = 0
  target: str | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds of one step, and of the compilation, of a program on this machine."""

  step: float
  compile: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """The plan of a run.

  Attributes:
    config: Config of the run.
    options: Assumptions of the plan.
    size: Sizes of the dataset.
    programs: All programs, by name.
    costs: Costs of one step on all devices, by program.
    resident: Bytes that one device always holds while the poison is made, by program and part.
    backend: Platform that the steps were compiled for.
    timings: Seconds on this machine, by program; empty where a target's compiler was used.
    machine: Number and kind of the devices of this machine.
    target: The chips that the plan is for; None: any kind.
  """

  config: Config
  options: Options
  size: Sizes
  programs: dict[str, Program]
  costs: dict[str, Cost]
  resident: dict[str, dict[str, int]]
  backend: str
  timings: dict[str, Timing]
  machine: str
  target: targets.Target | None = None

  @property
  def exact(self) -> bool:
    """Returns whether the steps were compiled by the compiler of the target."""
    return not self.timings

  @property
  def peak(self) -> int:
    """Returns the largest number of bytes that one device holds at one time."""
    # The delta step does not read the momentum, but the device holds it.
    held = (
      sum(parts.values()) + self.costs[name].temporaries for name, parts in self.resident.items()
    )
    return max(*held, *(cost.peak for cost in self.costs.values()))

  @property
  def poison(self) -> list[str]:
    """Returns the names of the programs that make the poison."""
    return programs.generation(self.programs)

  def passes(self, names: Iterable[str]) -> int:
    """Returns the number of passes of these programs over the training images."""
    return round(sum(self.programs[name].passes * self.programs[name].segments for name in names))

  def flops(self, names: Iterable[str] | None = None) -> float:
    """Returns the FLOPs of all steps of these programs, on all devices together."""
    names = self.programs if names is None else names
    return sum(self.programs[name].total * self.costs[name].flops for name in names)

  def seconds(self, names: Iterable[str] | None = None) -> float:
    """Returns the seconds of all steps of these programs on this machine."""
    names = self.programs if names is None else names
    return seconds(self.timings, {name: self.programs[name].total for name in names})


def make(config: Config, options: Options) -> Plan:
  """Plans a run: compiles its steps for a target, or times them here and compiles them for CPUs.

  It must be called before any other use of jax.

  Raises:
    UserError: An option is out of range, the target is unknown, the devices do not divide the
      batches, or the sizes of the data are neither known nor given and the data cannot be read.
  """
  _check(options)
  target = targets.parse(options.target) if options.target else None
  if target:
    options = dataclasses.replace(options, chips=target.devices)
  if target and target.installed:
    targets.prepare()
    return _compiled(config, options, _size(config.data, options), target)
  size = _size(config.data, options)
  here = meshes.start(config.devices, config.batch_sizes, offered=options.chips)
  mesh = pod(options.chips)
  with jax.set_mesh(mesh):  # refuses batches before the minutes of timing, not after them
    built = programs.build(config, size)
  timings = calibrate(config, size)
  with jax.set_mesh(mesh):
    return Plan(
      config,
      options,
      size,
      built,
      {name: program.cost() for name, program in built.items()},
      {name: resident(built[name]) for name in programs.generation(built)},
      mesh.devices.flat[0].platform,
      timings,
      f"{here.size} x {here.devices.flat[0].device_kind}",
      target,
    )


def _compiled(config: Config, options: Options, size: Sizes, target: targets.Target) -> Plan:
  """Plans a run by the compiler of a target."""
  costs, doing = {}, ""
  try:
    # Compilers crash on some programs.
    for name, cost in apart.each(lambda: _costs(config, size, target)):
      doing = f" while it compiled the step {name}"
      if cost is None:
        _logger.info("Compiling the step %s for %s ...", name, target.name)
      else:
        costs[name] = Cost.restored(cost)
  except apart.Crashed as crash:
    raise UserError(
      f"The compiler of {target.name} crashed ({crash}){doing}: choose another target, or install "
      "another version of the compiler."
    ) from crash
  with jax.set_mesh(targets.mesh(target)):
    built = programs.build(config, size)
    held = {name: resident(built[name]) for name in programs.generation(built)}
  return Plan(config, options, size, built, costs, held, target.chip.name, {}, "", target)


def _costs(
  config: Config, size: Sizes, target: targets.Target
) -> Iterator[tuple[str, dict[str, Any] | None]]:
  """Yields the name of each program before it is compiled, and again with its cost."""
  mesh = targets.mesh(target)
  with jax.set_mesh(mesh):
    built = programs.build(config, size)
  # XLA counts the body of a loop once; for CPUs the loops of a step are unrolled.
  with jax.set_mesh(pod(1)):
    alone = programs.build(config, size)
    flops = {name: program.flops() / program.batch for name, program in alone.items()}
  for name, program in built.items():
    yield name, None
    with jax.set_mesh(mesh):
      held = sum(resident(program).values())
      cost = targets.cost(program, target, flops[name] * program.batch, held)
    yield name, dataclasses.asdict(cost)


def calibrate(config: Config, size: Sizes) -> dict[str, Timing]:
  """Times every program on the current mesh with the batches of the config and few images."""
  few = dataclasses.replace(size, train=min(size.train, 2 * max(config.batch_sizes)))
  timings = {}
  for name, program in programs.build(config, few).items():
    watch = Stopwatch(program)
    timings[name] = Timing(watch.measure(_CALIBRATION_SECONDS), watch.compile_seconds)
  return timings


def seconds(timings: Mapping[str, Timing], runs: Mapping[str, int]) -> float:
  """Returns the seconds of `runs` steps of each program, each compiled once."""
  return sum(
    count * timings[name].step + timings[name].compile for name, count in runs.items() if count
  )


def hours(flops: float, chip: chips.Chip, count: int, share: float) -> float:
  """Returns the hours that `count` chips need for `flops` at a share of their peak."""
  return flops / (count * chip.tflops * 1e12 * share) / 3600


def resident(program: Program) -> dict[str, int]:
  """Returns the bytes of a program's arguments on one device of the current mesh, by part."""
  kinds, parts = tuple(_PARTS), {}
  for leaf in jax.tree.leaves(program.abstract(), is_leaf=lambda x: isinstance(x, kinds)):
    name = _PARTS.get(type(leaf), "order of the pass, masks, sums")
    parts[name] = parts.get(name, 0) + _device_bytes(leaf)
  return parts


def pod(count: int) -> jax.sharding.Mesh:
  """Returns a mesh of `count` devices, of virtual CPU devices where this machine has too few.

  Raises:
    UserError: Jax could not make that many CPU devices.
  """
  devices = jax.devices()
  if len(devices) < count:
    devices = jax.devices("cpu")
  if len(devices) < count:
    raise UserError(
      f"chips={count} but only {len(devices)} CPU devices could be made: unset "
      "JAX_NUM_CPU_DEVICES, or plan for fewer chips."
    )
  return meshes.over(devices[:count])


def _check(options: Options) -> None:
  if options.target and options.chips != 1:
    raise UserError("--target and --chips give different numbers of chips: leave one of them out.")
  if not 1 <= options.chips <= _MOST_CHIPS:
    raise UserError(f"--chips is {options.chips}; it must be from 1 to {_MOST_CHIPS}.")
  if not 0 < options.share <= 1:
    raise UserError(f"--share is {options.share:g}; a share of the peak is in (0, 1].")
  if options.price is not None and not 0 <= options.price < math.inf:
    raise UserError(f"--price is {options.price:g}; the price of a chip-hour is finite, 0 or more.")
  if not 0 <= options.train_images <= _MOST_IMAGES:
    raise UserError(
      f"--train_images is {options.train_images}; it must be from 0 (read from the data) to "
      f"{_MOST_IMAGES}."
    )
  if options.classes and not 2 <= options.classes <= _MOST_CLASSES:
    raise UserError(
      f"--classes is {options.classes}; it must be 0 (read from the data), or from 2 to "
      f"{_MOST_CLASSES}."
    )


def _size(data: Data, options: Options) -> Sizes:
  """Returns the sizes of the dataset: from the options, a list of datasets, or the data."""
  shape, train, classes = options.image_shape, options.train_images, options.classes
  size = known(data)
  if size is None and shape and train and classes:
    # The size of the test set is unknown: assume the default fraction.
    size = Sizes(shape, train, max(1, round(train * Data.test_fraction)), classes)
  size = size or read(data)
  return Sizes(shape or size.image, train or size.train, size.test, classes or size.classes)


def _device_bytes(tree: object) -> int:
  shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
  return sum(jax.ShapeDtypeStruct(shape, dtype).size * dtype.itemsize for shape, dtype in shapes)
