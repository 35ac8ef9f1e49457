"""Trains victims: networks on labelled images, from start to end."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import numpy as np

from miue_jax.data.dataset import Split
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.settings.config import Fit
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, loop, prediction, pretrained, step
from miue_jax.transforms import hooks as hooks_lib


class Fitted(flax.struct.PyTreeNode):
  """A model in training with its learning curves; a checkpoint of a victim holds one.

  Attributes:
    state: The model.
    sums: Running sums of the current epoch.
    curve: Training loss (nats), training accuracy, test accuracy and, with validation images,
      validation accuracy (percent) of every epoch, float32 `[epochs, 3 or 4]`.
    seconds: Time spent so far, in this and all earlier runs.
  """

  state: step.State
  sums: step.Sums
  curve: jax.Array
  seconds: jax.Array


def fit(
  module: nn.Module,
  config: Fit,
  train: Split,
  test: Split,
  *,
  seed: int,
  name: str,
  checkpoints: Checkpoints,
  progress: Reporter,
  hooks: hooks_lib.Hooks = hooks_lib.NONE,
  validation: Split | None = None,
) -> Fitted:
  """Returns `module` trained on `train`; resumes from its checkpoint.

  Every epoch ends with a test.

  Args:
    module: Network that returns (features, logits).
    config: The recipe.
    train: Training images with the labels that the model learns.
    test: Clean images for the learning curve.
    seed: Seed of initial weights, order and augmentation.
    name: Name of the training in the log.
    checkpoints: Storage of states.
    progress: Makes the reporter of the training.
    hooks: Changes that a defence makes to every batch.
    validation: Further images for the learning curve, for early stopping.

  Raises:
    signals.Interrupted: A signal came; the state is saved.
    UserError: The loss is not finite, the images do not fill one batch, or the initial weights are
      not those of this network.
  """
  layout = lanes.lay_out(len(train), (config.batch_size,), seed)
  steps = layout.steps(config.batch_size, partial=False)
  if steps == 0:
    raise UserError(
      f"{len(train)} training images do not fill one batch of {config.batch_size}: lower "
      "batch_size."
    )
  table = layout.place(train)
  fitted = fresh(module, config, train, seed, columns=3 if validation is None else 4)
  if config.start_from:
    drawn = sharding.fetch(fitted.state.variables)
    variables = pretrained.transplant(pretrained.load(config.start_from), drawn)
    fitted = fitted.replace(state=fitted.state.replace(**sharding.replicate(variables)))
  splits = {"test": test} | ({} if validation is None else {"validation": validation})

  def segment(epoch: int) -> loop.Segment:
    def run(fitted, first, stop, tick):
      acting = hooks.at(epoch - 1, config.epochs)
      order, advance = _compiled(module, config, steps, acting, jax.sharding.get_mesh())
      key = prng.stream(seed, "fit", epoch - 1)
      constants = step.Pass(table, None, order(key, table.ids), key)
      (state, sums), done = advance((fitted.state, fitted.sums), constants, first, stop, tick=tick)
      return fitted.replace(state=state, sums=sums), done

    def finish(fitted):
      loss, accuracy = fitted.sums.read(f"{name}, epoch {epoch}")
      scores = {"loss": loss, "train_accuracy": accuracy}
      for part, split in splits.items():
        _, logits = prediction.predict(module, fitted.state, split.images)
        hits = np.argmax(logits, axis=1) == split.labels
        scores[f"{part}_accuracy"] = 100 * float(np.mean(hits))
      curve = loop.recorded(fitted.curve, epoch - 1, list(scores.values()))
      return fitted.replace(curve=curve, sums=step.Sums.zero()), scores

    save = epoch % config.checkpoint_every == 0 or epoch == config.epochs
    return loop.Segment(epoch, steps, run, finish, save)

  segments = [segment(epoch) for epoch in range(1, config.epochs + 1)]
  return loop.drive(fitted, segments, name=name, checkpoints=checkpoints, progress=progress)


def fresh(module: nn.Module, config: Fit, train: Split, seed: int, columns: int = 3) -> Fitted:
  """Returns an untrained `Fitted` on the mesh; it is also the template of a checkpoint."""
  optimiser = step.sgd(config, config.epochs, max(len(train) // config.batch_size, 1))
  key = prng.stream(seed, "weights")
  return Fitted(
    sharding.replicate(step.fresh_state(module, optimiser, key, train.images.shape[1:])),
    step.Sums.zero(),
    loop.no_history(config.epochs, columns, fill=0),
    sharding.replicate(np.float32(0)),
  )


@functools.lru_cache(maxsize=8)
def _compiled(
  module: nn.Module, config: Fit, steps: int, hooks: hooks_lib.Hooks, mesh: jax.sharding.Mesh
) -> tuple[Any, Any]:
  """Returns the compiled functions of `fit`, which equal calls share."""
  del mesh  # part of the key: a compiled step belongs to its mesh
  optimiser = step.sgd(config, config.epochs, steps)
  inputs = step.plain_inputs(config.augment)
  run = loops.repeated(step.train_step(module, optimiser, inputs, jax.P(AXIS), hooks))
  return step.shuffler(config.batch_size), run
