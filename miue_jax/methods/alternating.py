"""The loop that bi-level methods share: fit the source model, move delta, repeat.

A method states what each side does; this file holds the order of things, checkpoints and records.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import numpy as np
import optax

from miue_jax import budget, models
from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods import observation
from miue_jax.methods.generated import Generated
from miue_jax.settings.config import Config, Method
from miue_jax.train import fit, lanes
from miue_jax.transforms import hooks, recompression

# (source model, optimiser, config) -> the step of a source pass, as `fit.train_step` makes it.
SourceStep = Callable[[nn.Module, optax.GradientTransformation, Config], loops.Step]

# (source model, settings, number of classes) -> the step of a delta pass.
DeltaStep = Callable[[nn.Module, Method, int], loops.Step]


@dataclasses.dataclass(frozen=True)
class Bilevel:
  """What a method states about its two sides.

  Attributes:
    objective: what delta minimises; None where `delta_step` says that.
    source_adversary: moves the poisoned images before the source model learns from them.
    delta_adversary: moves the poisoned images before `objective` judges them.
    auxiliary: learns beside delta and adds a term to `objective`.
    squeeze: what poisoned images lose before either side sees them.
    fresh: delta starts anew in every pass, from another draw where `method.init` is random; else it
      continues from the pass before.
    outputs: of the source model; 0: one for each class.
    source_step: takes the place of `fit.train_step` on cross-entropy.
    delta_step: takes the place of `delta.delta_step` on `objective`.
  """

  objective: deltas.Objective | None = None
  source_adversary: hooks.Adversary | None = None
  delta_adversary: hooks.Adversary | None = None
  auxiliary: deltas.Auxiliary | None = None
  squeeze: recompression.Squeeze = recompression.untouched
  fresh: bool = False
  outputs: int = 0
  source_step: SourceStep | None = None
  delta_step: DeltaStep | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
  """Steps of one side without a break.

  Attributes:
    kind: "source" or "delta".
    epoch: counted from 1.
    first: steps of the whole schedule before this segment.
    stop: the same after it.
  """

  kind: str
  epoch: int
  first: int
  stop: int

  @property
  def steps(self) -> int:
    """How many."""
    return self.stop - self.first


@flax.struct.dataclass
class _Loop:
  """What a checkpoint holds; `history` has a row for each epoch, NaN where nothing was recorded.

  `beside` is the auxiliary's state and `seen` belongs to the observer; None without one.
  """

  source: fit.State
  delta: jax.Array
  sums: fit.Sums
  history: jax.Array
  seconds: jax.Array
  beside: Any = None
  seen: jax.Array | None = None


def schedule(config: Config, layout: lanes.Layout) -> tuple[Segment, ...]:
  """All steps of a method that does not stop before `method.epochs`."""
  method, whole = config.method, layout.steps(config.source.batch_size, partial=False)
  steps = {
    "source": min(method.source_steps or whole, whole),
    "delta": layout.steps(method.batch_size, partial=True) * method.steps,
  }
  segments, position = [], 0
  for epoch in range(1, method.epochs + 1):
    for kind, count in steps.items():
      segments.append(Segment(kind, epoch, position, position + count))
      position += count
  return tuple(segments)


def source_step(
  bilevel: Bilevel, module: nn.Module, optimiser: optax.GradientTransformation, config: Config
) -> loops.Step:
  """The step of a source pass, `((State, Sums), Pass, index) -> (State, Sums)`."""
  if bilevel.source_step:
    return bilevel.source_step(module, optimiser, config)
  return fit.train_step(
    module,
    optimiser,
    deltas.source_inputs(config, bilevel.squeeze),
    (jax.P() if config.method.class_wise else jax.P(AXIS), jax.P(AXIS)),
    hooks.Hooks(adversary=bilevel.source_adversary),
  )


def delta_step(bilevel: Bilevel, module: nn.Module, method: Method, classes: int) -> loops.Step:
  """The step of a delta pass, as `delta.sign_step` returns it."""
  if bilevel.delta_step:
    return bilevel.delta_step(module, method, classes)
  return deltas.delta_step(
    module,
    method,
    bilevel.objective,
    bilevel.delta_adversary,
    bilevel.auxiliary,
    bilevel.squeeze,
  )


def generate(
  dataset: Dataset,
  config: Config,
  bilevel: Bilevel,
  checkpoints: Checkpoints,
  progress: Reporter,
) -> Generated:
  """Alternates source training on poisoned images with sign steps on delta.

  Ends after `method.epochs`, or after the first in which the source model errs on less than
  `method.stop_error` percent of the poisoned images.

  Args:
    dataset: only its training split is used.
    config: `method`, `model`, `source` and `seed` matter here.
    bilevel: what each side does.
    checkpoints: where states go; an interrupted run continues from there.
    progress: makes the reporter of a stage.

  Raises:
    signals.Interrupted: a signal came; the state is saved.
    UserError: a loss is not finite, fewer images than one batch, or a budget in another norm.
  """
  method, train = config.method, dataset.train
  layout = deltas.lay_out(train, config)
  segments = schedule(config, layout)
  classes = dataset.num_classes
  module = models.build(config.model, bilevel.outputs or classes, train.images.shape[1:])
  optimiser = fit.sgd(config.source, method.epochs, segments[0].steps)
  table = layout.place(train)
  chosen = deltas.chosen_images(train.labels, method, config.seed)
  perturbed = deltas.perturbed_rows(chosen, layout)
  source_order = fit.shuffler(config.source.batch_size)
  delta_order = fit.shuffler(method.batch_size)
  train_run = loops.repeated(source_step(bilevel, module, optimiser, config))
  delta_run = loops.repeated(delta_step(bilevel, module, method, classes))

  observer = None
  if config.measure.epochs:
    observer = observation.Observer(dataset, config, module, layout, chosen)
  names, image = _columns(method), train.images.shape[1:]
  key = prng.stream(config.seed, "companion")
  loop = _Loop(
    fit.init(module, optimiser, prng.stream(config.seed, "weights"), image),
    deltas.first_delta(dataset, method, layout, config.seed),
    fit.Sums.zero(),
    sharding.replicate(np.full((method.epochs, len(names)), np.nan, np.float32)),
    sharding.replicate(np.float32(0)),
    sharding.replicate(deltas.auxiliary_state(bilevel.auxiliary, module, key, image)),
    observer.nothing() if observer else None,
  )
  position, loop = checkpoints.restore(loop) or (0, loop)
  stopped = _easy(loop, method)
  report = progress("generate", segments[-1].stop, method.epochs, position)
  clock = fit.Clock(loop.seconds)

  with signals.stop_on_signal():
    for segment in segments:
      if stopped or segment.stop <= position:
        continue
      key = prng.stream(config.seed, segment.kind, segment.epoch)
      bounds = position - segment.first, segment.steps

      def tick(index, before=segment.first):
        report.tick(before + index)

      if segment.kind == "source":
        data = fit.Pass(table, (loop.delta, perturbed), source_order(key, table.ids), key)
        (source, sums), reached = train_run((loop.source, loop.sums), data, *bounds, tick=tick)
        loop = loop.replace(source=source, sums=sums)
      else:
        if bilevel.fresh and position == segment.first:
          seed = (config.seed, segment.epoch)
          loop = loop.replace(delta=deltas.first_delta(dataset, method, layout, seed))
        data = fit.Pass(table, None, delta_order(key, table.ids), key)
        sizes = sharding.replicate(_sizes(method, segment.epoch))
        constants = deltas.DeltaPass(loop.source, data, perturbed, *sizes)
        (delta, sums, beside), reached = delta_run(
          (loop.delta, loop.sums, loop.beside), constants, *bounds, tick=tick
        )
        loop = loop.replace(delta=delta, sums=sums, beside=beside)

      position = segment.first + reached
      if reached < segment.steps:
        checkpoints.save(position, loop.replace(seconds=clock.read()))
        raise signals.Interrupted(signals.received())
      loop = _recorded(loop, segment, names)
      if segment.kind == "delta":
        row = sharding.fetch(loop.history)[segment.epoch - 1]
        scalars = dict(zip(names, row, strict=True))
        if observer and segment.epoch in observer.epochs:
          seen, found = observer.look(loop.seen, segment.epoch, loop.source, loop.delta)
          loop, scalars = loop.replace(seen=seen), scalars | found
        report.report(position, segment.epoch, scalars)
        loop, stopped = loop.replace(seconds=clock.read()), _easy(loop, method)
        if stopped or segment.epoch % method.checkpoint_every == 0 or segment is segments[-1]:
          checkpoints.save(position, loop)
  report.close()

  released = deltas.released(layout, table, loop.delta, perturbed, method)
  history = sharding.fetch(loop.history).astype(np.float64).round(6)
  return Generated(
    released,
    float(loop.seconds),
    None if chosen.all() else np.flatnonzero(chosen),
    {
      name: column[~np.isnan(column)].tolist()
      for name, column in zip(names, history.T, strict=True)
    }
    | (observer.history(loop.seen) if observer else {}),
  )


def _columns(method: Method) -> tuple[str, ...]:
  """What is recorded of an epoch: losses in nats, accuracies on poisoned images in percent."""
  names = ("source_loss", "source_accuracy", "objective")
  return (*names, "poisoned_accuracy") if method.stop_error else names


def _sizes(method: Method, epoch: int) -> tuple[np.float32, np.float32]:
  """Step size and radius of an epoch's delta pass."""
  step = budget.step_size(epoch, method.epochs, method.step_size_start, method.step_size_end)
  radius = budget.radius(epoch, method.epsilon, method.epsilon_start, method.epsilon_epochs)
  return np.float32(step), np.float32(radius)


def _recorded(loop: _Loop, segment: Segment, names: tuple[str, ...]) -> _Loop:
  """Writes down what the sums of a finished segment say and starts new ones."""
  learned = segment.kind == "source"
  what = "the source model" if learned else "delta"
  columns = slice(0, 2) if learned else slice(2, len(names))
  values = loop.sums.read(f"{what}, epoch {segment.epoch}")
  history = np.array(sharding.fetch(loop.history))
  history[segment.epoch - 1, columns] = values[: len(names[columns])]
  return loop.replace(history=sharding.replicate(history), sums=fit.Sums.zero())


def _easy(loop: _Loop, method: Method) -> bool:
  """Whether an epoch left the source model fewer errors than `method.stop_error` percent."""
  if not method.stop_error:
    return False
  accuracy = sharding.fetch(loop.history)[:, -1]
  return bool(np.any(100 - accuracy < method.stop_error))
