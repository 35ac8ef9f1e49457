"""Provides methods that take steps on the devices.

Such a method states its steps once, as a `Procedure`: a plan compiles them without data, and a
generation runs them.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods.delta import Delta, DeltaPass
from miue_jax.methods.method import Generated, Observer, Phase, Sizes
from miue_jax.train import lanes, loop, step


class State(flax.struct.PyTreeNode):
  """The state of a generation; a checkpoint holds one.

  Attributes:
    parts: Values that steps change, by name.
    history: Recorded values, `[epochs, names]`; NaN where nothing was recorded.
    seconds: Time spent, in this and all earlier runs.
  """

  parts: dict[str, Any]
  history: jax.Array
  seconds: jax.Array


@dataclasses.dataclass(frozen=True)
class Stage:
  """One kind of step.

  Attributes:
    name: Name, such as "source" or "delta".
    batch: Images that one step reads, padding included.
    steps: Steps of one turn.
    passes: Passes over the training images in one turn.
    step: The step, `(carry, constants, index) -> carry`.
    changes: Names of the parts that form the carry, a tuple.
    constants: Makes the constants, `(parts, pass, perturbed rows, step size) -> constants`; from
      partition specs it makes the specs of the constants.
    prepared: Computes once for a turn what all of its steps need, `constants -> constants`;
      traceable.
  """

  name: str
  batch: int
  steps: int
  passes: float
  step: loops.Step
  changes: tuple[str, ...]
  constants: Callable[[Mapping[str, Any], step.Pass, Any, Any], Any]
  prepared: Callable[[Any], Any] = lambda constants: constants


class Reading(NamedTuple):
  """Sums that a turn reads when it ends, and then empties.

  Attributes:
    part: Name of the sums among the parts.
    what: Name of the trained model or delta, for messages.
    names: Names of the mean loss and, where it counts, the accuracy in the history.
  """

  part: str
  what: str
  names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Turn:
  """One run through the steps of a stage.

  Attributes:
    stage: The stage.
    epoch: Number of its row in the history, from 1.
    stream: Name of its random stream.
    readings: Sums that it reads when it ends.
    step_size: Size of its sign steps in [0, 1] pixel units.
    first: Index of its first step.
    start: Seed of the perturbation that it starts from; None continues with the current one.
    observed: Whether the observer looks when it ends.
    reports: Whether the row of the history is reported when it ends.
    save: Whether a checkpoint follows.
  """

  stage: Stage
  epoch: int
  stream: tuple[str | int, ...]
  readings: tuple[Reading, ...] = ()
  step_size: float = 0.0
  first: int = 0
  start: tuple[int, ...] | None = None
  observed: bool = False
  reports: bool = True
  save: bool = False


@dataclasses.dataclass(frozen=True)
class Procedure:
  """All that a generation consists of, except for data.

  Attributes:
    layout: Layout of the training images.
    stages: Kinds of steps.
    turns: The turns in their order.
    names: Names of the values in the history.
    start: Makes the initial parts of the method from a function that returns a random key for a
      name, and from the initial perturbation; traceable. Perturbation and sums are added to them.
    specs: Partition specs of parts that are not replicated.
    result: Name of the part that holds the final perturbation.
    finished: Whether a generation with this history (columns by name) ends early.
  """

  layout: lanes.Layout
  stages: tuple[Stage, ...]
  turns: tuple[Turn, ...]
  names: tuple[str, ...]
  start: Callable[[Callable[[str], jax.Array], Delta], dict[str, Any]]
  specs: Mapping[str, jax.P] = dataclasses.field(default_factory=dict)
  result: str = "delta"
  finished: Callable[[Mapping[str, np.ndarray]], bool] = lambda history: False

  @property
  def sums(self) -> set[str]:
    """Returns the names of the parts that are running sums."""
    return {reading.part for turn in self.turns for reading in turn.readings}


class Stepwise:
  """A method that takes steps; subclasses are frozen dataclasses that implement `procedure`."""

  def procedure(self, settings: Any, sizes: Sizes, seed: int) -> Procedure:
    """Returns the steps for the mesh that is set.

    Raises:
      UserError: The images do not fit the network or fill no batch.
    """
    raise NotImplementedError

  def chosen(self, labels: np.ndarray, settings: Any, seed: int) -> np.ndarray:
    """Returns a mask of the images that are perturbed, bool `[N]`."""
    return deltas.chosen_images(labels, settings, seed)

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the kinds of steps; see `method.Method`."""
    procedure = self.procedure(settings, sizes, seed)
    return tuple(_phase(procedure, stage, settings, sizes) for stage in procedure.stages)

  def generate(
    self,
    dataset: Dataset,
    settings: Any,
    seed: int,
    checkpoints: Checkpoints,
    progress: Reporter,
    observer: Observer | None = None,
  ) -> Generated:
    """Takes all steps; see `method.Method`."""
    train = dataset.train
    sizes = Sizes(train.images.shape[1:], len(train), dataset.num_classes)
    procedure = self.procedure(settings, sizes, seed)
    table = procedure.layout.place(train)
    chosen = self.chosen(train.labels, settings, seed)
    ids = procedure.layout.ids
    perturbed = sharding.shard((ids >= 0) & chosen[np.maximum(ids, 0)])
    delta = deltas.first_delta(dataset, settings, procedure.layout, seed)
    made = procedure.start(lambda name: prng.stream(seed, name), delta)
    parts = {"delta": delta, **{name: step.Sums.zero() for name in procedure.sums}} | {
      name: sharding.shard(part) if name in procedure.specs else sharding.replicate(part)
      for name, part in made.items()
    }
    observer = observer if any(turn.observed for turn in procedure.turns) else None
    names = (*procedure.names, *(observer.names if observer else ()))
    history = loop.no_history(procedure.turns[-1].epoch, len(names))
    run = _runner(procedure, dataset, settings, seed, table, perturbed)
    state = loop.drive(
      State(parts, history, sharding.replicate(np.float32(0))),
      [
        loop.Segment(
          turn.epoch,
          turn.stage.steps,
          functools.partial(run, turn),
          functools.partial(_finish, turn, procedure.layout, names, observer),
          turn.save,
        )
        for turn in procedure.turns
      ],
      name="generate",
      checkpoints=checkpoints,
      progress=progress,
      finished=lambda state: procedure.finished(_columns(state.history, names)),
    )
    result, source = state.parts[procedure.result], state.parts.get("source")
    has_source = isinstance(source, step.State)
    history = {
      name: np.round(column[~np.isnan(column)].astype(np.float64), 6).tolist()
      for name, column in _columns(state.history, names).items()
    }
    if observer:
      history["observed_epoch"] = list(observer.epochs[: len(history[observer.names[0]])])
    return Generated(
      deltas.quantised(procedure.layout, table, result, perturbed, settings),
      float(state.seconds),
      None if chosen.all() else np.flatnonzero(chosen),
      history,
      sharding.fetch(source.variables) if has_source else None,
    )


def _runner(
  procedure: Procedure,
  dataset: Dataset,
  settings: Any,
  seed: int,
  table: lanes.Table,
  perturbed: jax.Array,
) -> Callable[..., tuple[State, int]]:
  """Returns `run(turn, state, first, stop, tick)`, which takes steps of a turn."""
  orders = {stage.batch: step.shuffler(stage.batch) for stage in procedure.stages}
  loops_of = {stage.name: loops.repeated(stage.step) for stage in procedure.stages}

  def run(turn, state, first, stop, tick):
    stage, parts = turn.stage, state.parts
    if turn.start and first == 0:
      start = deltas.first_delta(dataset, settings, procedure.layout, turn.start)
      parts = parts | {"delta": start}
    key = prng.stream(seed, *turn.stream)
    data = step.Pass(table, None, orders[stage.batch](key, table.ids), key)
    size = sharding.replicate(np.float32(turn.step_size))
    carry, reached = loops_of[stage.name](
      tuple(parts[name] for name in stage.changes),
      stage.prepared(stage.constants(parts, data, perturbed, size)),
      turn.first + first,
      turn.first + stop,
      tick=lambda index: tick(index - turn.first),
    )
    parts = parts | dict(zip(stage.changes, carry, strict=True))
    return state.replace(parts=parts), reached - turn.first

  return run


def _finish(
  turn: Turn, layout: lanes.Layout, names: tuple[str, ...], observer: Observer | None, state: State
) -> tuple[State, dict[str, float] | None]:
  """Returns the state with the values of a turn in its history, and its row if it is reported."""
  values, sums = {}, {}
  for reading in turn.readings:
    values |= zip(reading.names, state.parts[reading.part].read(reading.what), strict=False)
    sums[reading.part] = step.Sums.zero()
  if observer and turn.observed and turn.epoch in observer.epochs:
    looked = observer.look(state.parts["source"], state.parts["delta"], layout)
    values |= zip(observer.names, looked, strict=True)
  columns = [names.index(name) for name in values]
  history = loop.recorded(state.history, turn.epoch - 1, list(values.values()), columns)
  state = state.replace(parts=state.parts | sums, history=history)
  row = {name: float(column[turn.epoch - 1]) for name, column in _columns(history, names).items()}
  reported = {name: value for name, value in row.items() if not np.isnan(value)}
  return state, reported if turn.reports else None


def _columns(history: jax.Array, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  return dict(zip(names, sharding.fetch(history).T, strict=True))


def _phase(procedure: Procedure, stage: Stage, settings: Any, sizes: Sizes) -> Phase:
  turns = [turn for turn in procedure.turns if turn.stage is stage]
  specs = collections.defaultdict(jax.P, {**procedure.specs, "delta": Delta.spec(settings)})

  def arguments(images, labels):
    delta = Delta.zeros(settings, len(images), sizes.classes, sizes.image)
    parts = {"delta": delta, **dict.fromkeys(procedure.sums, step.Sums.empty())}
    parts |= procedure.start(lambda name: jax.random.key(0), delta)
    data = step.example_pass(procedure.layout, images, labels, stage.batch)
    size, perturbed = jnp.float32(turns[0].step_size), jnp.ones(len(images), bool)
    constants = stage.prepared(stage.constants(parts, data, perturbed, size))
    return tuple(parts[name] for name in stage.changes), constants

  return Phase(
    stage.name,
    stage.batch,
    stage.steps,
    len(turns),
    stage.passes,
    len(procedure.layout.ids),
    stage.step,
    arguments,
    (
      tuple(specs[name] for name in stage.changes),
      stage.constants(specs, step.pass_spec(None), jax.P(AXIS), jax.P()),
    ),
  )


def delta_stage(
  settings: Any,
  steps: int,
  passes: float,
  sign_step: loops.Step,
  prepared: Callable[[Any], Any] = lambda constants: constants,
) -> Stage:
  """Returns the stage that moves delta by sign steps against the source model, part "source".

  The objective compares the images that are perturbed, or those of part "compared" if it is there.

  Args:
    settings: Settings of the method.
    steps: Steps of one turn.
    passes: Passes over the images in one turn.
    sign_step: The step.
    prepared: `Stage.prepared`; `source.freezer` makes it for methods with a source model.
  """
  return Stage(
    "delta",
    settings.batch_size,
    steps,
    passes,
    sign_step,
    ("delta", "sums", "auxiliary"),
    lambda parts, data, perturbed, size: DeltaPass(
      parts["source"], data, perturbed, parts.get("compared", perturbed), size
    ),
    prepared,
  )


def due(settings: Any, epoch: int, epochs: int) -> bool:
  """Returns whether a checkpoint follows an epoch."""
  return epoch % settings.checkpoint_every == 0 or epoch == epochs
