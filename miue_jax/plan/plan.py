"""Plans a run before anything is spent: `--mode=plan`.

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
from miue_jax.methods.delta import Delta
from miue_jax.plan import chips, programs
from miue_jax.plan.cost import Cost
from miue_jax.plan.programs import Program
from miue_jax.plan.sizes import Sizes, known, read
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config, Data
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, step

_CALIBRATION_SECONDS = 2.0  # of steps of each program, after their compilation

# Parts of the memory that a generation holds throughout, by the type of its arrays.
_PARTS = {
  lanes.Table: "dataset (uint8 images, labels, ids)",
  Delta: "delta (int16)",
  step.State: "networks with optimiser state",
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Wishes of the user in addition to the config.

  Attributes:
    chips: Number of chips that the run is planned for.
    price: Price of one chip for one hour, in any currency; None leaves costs out.
    share: Share of a chip's peak that the steps are assumed to reach, in (0, 1].
    image_shape: Height, width, channels; None asks the source.
    train_images: Number of training images; 0 asks the source.
    classes: Number of classes; 0 asks the source.
  """

  chips: int = 1
  price: float | None = None
  share: float = 0.4
  image_shape: tuple[int, int, int] | None = None
  train_images: int = 0
  classes: int = 0


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds that one program takes on this machine: one step, and its compilation."""

  step: float
  compile: float


@dataclasses.dataclass(frozen=True)
class Plan:
  """The plan of a run.

  Attributes:
    config: Config of the run.
    options: Wishes of the user.
    size: Sizes of the dataset.
    programs: All programs, by name.
    costs: Costs of one step on `options.chips` devices, by program.
    resident: Bytes on one device while the poison is made, by program and part.
    backend: Backend that the steps were compiled for.
    timings: Seconds on this machine, by program.
    machine: Number and kind of the devices of this machine.
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

  @property
  def peak(self) -> int:
    """Returns the most bytes on one device at one time."""
    # A delta step does not read the momentum, which is on the device all the same.
    held = (
      sum(parts.values()) + self.costs[name].temporaries for name, parts in self.resident.items()
    )
    return max(*held, *(cost.peak for cost in self.costs.values()))

  @property
  def poison(self) -> list[str]:
    """Returns the names of the programs that make the poison."""
    return programs.generation(self.programs)

  def passes(self, names: Iterable[str]) -> int:
    """Returns how often all steps of these programs pass over the training images."""
    return round(sum(self.programs[name].passes * self.programs[name].segments for name in names))

  def flops(self, names: Iterable[str] | None = None) -> float:
    """Returns the arithmetic of all steps of these programs, on all devices together."""
    names = self.programs if names is None else names
    return sum(self.programs[name].total * self.costs[name].flops for name in names)

  def seconds(self, names: Iterable[str] | None = None) -> float:
    """Returns the seconds of all steps of these programs on this machine."""
    names = self.programs if names is None else names
    return seconds(self.timings, {name: self.programs[name].total for name in names})


def make(config: Config, options: Options) -> Plan:
  """Plans a run: times steps on this machine, then compiles them for `options.chips` devices.

  It must run before any other use of jax.

  Raises:
    UserError: Options that make no sense, devices that do not divide the batches, data that cannot
      be read where their sizes are neither known nor given.
  """
  _check(options)
  size = _size(config.data, options)
  offer_cpu_devices(options.chips)
  here = meshes.start(config.devices, config.batch_sizes)
  timings = calibrate(config, size)
  mesh = pod(options.chips)
  with jax.set_mesh(mesh):
    built = programs.build(config, size)
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
    )


def calibrate(config: Config, size: Sizes) -> dict[str, Timing]:
  """Times every program on the mesh that is set, at the config's batches, with few images."""
  few = dataclasses.replace(size, train=min(size.train, 2 * max(config.batch_sizes)))
  timings = {}
  for name, program in programs.build(config, few).items():
    watch = Stopwatch(program)
    timings[name] = Timing(watch.measure(_CALIBRATION_SECONDS), watch.compile_seconds)
  return timings


def seconds(timings: Mapping[str, Timing], runs: Mapping[str, int]) -> float:
  """Returns the seconds of so many steps of each program, with one compilation of each."""
  return sum(
    count * timings[name].step + timings[name].compile for name, count in runs.items() if count
  )


def hours(flops: float, chip: chips.Chip, count: int, share: float) -> float:
  """Returns the hours of so much arithmetic on `count` chips at a share of their peak."""
  return flops / (count * chip.tflops * 1e12 * share) / 3600


def resident(program: Program) -> dict[str, int]:
  """Returns the bytes of a program's arguments on one device of the mesh that is set, by part."""
  kinds, parts = tuple(_PARTS), {}
  for leaf in jax.tree.leaves(program.abstract(), is_leaf=lambda x: isinstance(x, kinds)):
    name = _PARTS.get(type(leaf), "order of the pass, masks, sums")
    parts[name] = parts.get(name, 0) + _device_bytes(leaf)
  return parts


def pod(count: int) -> jax.sharding.Mesh:
  """Returns a mesh of so many devices: imaginary CPU devices where this machine has too few.

  Raises:
    UserError: There are too few of those as well.
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
  meshes.started()  # starts the backend: from here on nobody changes their number


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
  """Returns the dataset's sizes: from the options, else known ones, else read."""
  shape, train, classes = options.image_shape, options.train_images, options.classes
  size = known(data)
  if size is None and shape and train and classes:
    # Nothing is known of the test set: it is as large as one held out by default.
    size = Sizes(shape, train, max(1, round(train * Data.test_fraction)), classes)
  size = size or read(data)
  return Sizes(shape or size.image, train or size.train, size.test, classes or size.classes)


def _device_bytes(tree: object) -> int:
  shapes = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
  return sum(jax.ShapeDtypeStruct(shape, dtype).size * dtype.itemsize for shape, dtype in shapes)
