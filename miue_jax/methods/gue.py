"""GUE: game unlearnable examples (Liu et al., AAAI 2024, arXiv 2401.17523).

A generator G_a, a U-Net with outputs in (-1, 1), perturbs images, x' = clip(x + eps G_a(x)), and
leads a Stackelberg game that a classifier f_theta follows:

  follower   g(a, theta) = mean CE(f_theta(x'), y)                    learns from the poison
  leader     F(theta) = mean max_{k != y} CE(f_theta(x), k)           its best response shall err

F is the paper's payoff: unlike minus the cross-entropy of the true class it is bounded where the
leader gets what it wants, by ln(classes - 1). Both players move on every batch, by the first-order
method of BOME (Liu et al., NeurIPS 2022), for which q(a, theta) = g(a, theta) - g(a, theta*) is how
far the follower is from its best response theta*, some Adam steps from theta, taken for a constant:

  lambda <- max(0, eta - <grad F, grad q> / ||grad q||^2)
  a      <- a - rate_a lambda grad_a q
  theta  <- theta - rate_theta (grad F + lambda grad_theta q)

so that q falls whatever F wants. In the end every image gets what the generator makes of it, with
BatchNorm in inference mode: no image has a perturbation before that.

The authors keep the generator of the epoch whose poison made a new classifier do worst on clean
test images; here it is the last, and no test image is used.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax import budget, models, objectives
from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods.delta import Delta
from miue_jax.methods.method import Generated, Observer, Phase, Sizes, generated
from miue_jax.models import unet
from miue_jax.settings.config import Method, Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Count, Positive, settings
from miue_jax.train import loop, step
from miue_jax.transforms import augment

ETA = 1.5
RESPONSE_RATE = 1e-4  # of the Adam steps towards the follower's best response


@settings
class Settings(Method):
  """Settings of GUE; the defaults are the paper's for CIFAR-10."""

  name: str = "gue"
  model: Model = Model()  # the classifier; its width is that of the generator as well
  # How the classifier moves, at a constant rate; `augment` is what both players see.
  source: Sgd = Sgd(
    batch_size=256,
    learning_rate=0.01,
    final_learning_rate=0.01,
    momentum=0.0,
    weight_decay=0.0,
    augment="none",
  )
  epochs: Count = 50  # passes over the images
  response_steps: Count = 10  # Adam steps to the classifier's best response
  generator_learning_rate: Positive = 0.1
  batch_size: Count = 512  # images that the finished generator perturbs at a time
  checkpoint_every: Count = 5  # epochs between checkpoints


@flax.struct.dataclass
class Players:
  """Both networks in training; the classifier's BatchNorm always uses the batch's statistics."""

  generator: step.State
  classifier: step.State


@flax.struct.dataclass
class State:
  """The state of a generation; a checkpoint holds one.

  Attributes:
    players: Both networks.
    sums: Running sums of the follower and of the leader.
    delta: The perturbation, zeros until the generator is finished.
    history: Source loss, source accuracy and payoff of every epoch, `[epochs, 3]`.
    seconds: Time spent, over all sittings.
  """

  players: Players
  sums: tuple[step.Sums, step.Sums]
  delta: Delta
  history: jax.Array
  seconds: jax.Array


@dataclasses.dataclass(frozen=True)
class Game:
  """The method: a generator and a classifier that play against each other."""

  settings: type[Settings]

  def phases(self, settings: Any, sizes: Sizes, seed: int) -> tuple[Phase, ...]:
    """Returns the two kinds of steps; see `method.Method`."""
    layout = deltas.lay_out(sizes.train, settings, seed)
    steps = layout.steps(settings.source.batch_size, partial=False)
    networks, rates = _networks(settings, sizes, steps)
    rows, spec = len(layout.ids), step.pass_spec(jax.P(AXIS))

    def fresh(number: int) -> step.State:
      return step.fresh_state(networks[number], rates[number], jax.random.key(0), sizes.image)

    def playing(images, labels):
      batch, perturbed = settings.source.batch_size, jnp.ones(len(images), bool)
      constants = step.example_pass(layout, images, labels, batch, perturbed)
      sums = step.Sums.empty(), step.Sums.empty()
      return (Players(fresh(0), fresh(1)), sums), constants

    def applying(images, labels):
      data = step.example_pass(layout, images, labels, settings.batch_size, None)
      delta = Delta.zeros(_ImageWise(settings.epsilon), len(images), 0, sizes.image)
      return delta, (fresh(0), data)

    batches = layout.steps(settings.batch_size, partial=True)
    play, apply = game_step(*networks, rates, settings), _apply_step(networks[0], settings)
    batch, epochs = settings.source.batch_size, settings.epochs
    return (
      Phase("game", batch, steps, epochs, 1, rows, play, playing, (jax.P(), spec)),
      Phase(
        "apply",
        settings.batch_size,
        batches,
        1,
        1,
        rows,
        apply,
        applying,
        (jax.P(AXIS), (jax.P(), spec)),
      ),
    )

  def generate(
    self,
    dataset: Dataset,
    settings: Any,
    seed: int,
    checkpoints: Checkpoints,
    progress: Reporter,
    observer: Observer | None = None,
  ) -> Generated:
    """Plays the game, then perturbs all images; see `method.Method`."""
    del observer
    train, image = dataset.train, dataset.train.images.shape[1:]
    layout = deltas.lay_out(len(train), settings, seed)
    steps = layout.steps(settings.source.batch_size, partial=False)
    sizes = Sizes(image, len(train), dataset.num_classes)
    (generator, classifier), rates = _networks(settings, sizes, steps)
    table = layout.place(train)
    chosen = deltas.chosen_images(train.labels, settings, seed)
    perturbed = deltas.perturbed_rows(chosen, layout)
    play = loops.repeated(game_step(generator, classifier, rates, settings))
    apply = loops.repeated(_apply_step(generator, settings))
    order = step.shuffler(settings.source.batch_size)

    def game_segment(epoch: int) -> loop.Segment:
      def run(state, first, stop, tick):
        key = prng.stream(seed, "game", epoch)
        data = step.Pass(table, perturbed, order(key, table.ids), key)
        (players, sums), done = play((state.players, state.sums), data, first, stop, tick=tick)
        return state.replace(players=players, sums=sums), done

      def finish(state):
        loss, accuracy = state.sums[0].read(f"the source model, epoch {epoch}")
        payoff, _ = state.sums[1].read(f"the generator, epoch {epoch}")
        values = {"source_loss": loss, "source_accuracy": accuracy, "objective": payoff}
        history = loop.recorded(state.history, epoch - 1, list(values.values()))
        sums = step.Sums.zero(), step.Sums.zero()
        return state.replace(history=history, sums=sums), values

      save = epoch % settings.checkpoint_every == 0 or epoch == settings.epochs
      return loop.Segment(epoch, steps, run, finish, save)

    def perturb(state, first, stop, tick):
      key = prng.stream(seed, "delta")
      shuffled = step.shuffler(settings.batch_size)(key, table.ids)
      constants = state.players.generator, step.Pass(table, None, shuffled, key)
      delta, done = apply(state.delta, constants, first, stop, tick=tick)
      return state.replace(delta=delta), done

    batches = layout.steps(settings.batch_size, partial=True)
    finishing = loop.Segment(settings.epochs, batches, perturb, lambda state: (state, None), True)
    state = State(
      Players(
        step.init(generator, rates[0], prng.stream(seed, "generator"), image),
        step.init(classifier, rates[1], prng.stream(seed, "weights"), image),
      ),
      (step.Sums.zero(), step.Sums.zero()),
      deltas.first_delta(dataset, _ImageWise(settings.epsilon), layout, seed),
      loop.no_history(settings.epochs, 3, fill=0),
      sharding.replicate(np.float32(0)),
    )
    games = [game_segment(epoch) for epoch in range(1, settings.epochs + 1)]
    state = loop.drive(
      state, [*games, finishing], name="generate", checkpoints=checkpoints, progress=progress
    )
    quantised = deltas.quantised(layout, table, state.delta, perturbed, settings)
    names = ("source_loss", "source_accuracy", "objective")
    history = dict(zip(names, sharding.fetch(state.history).T, strict=True))
    return generated(quantised, state.seconds, chosen, history)


@dataclasses.dataclass(frozen=True)
class _ImageWise:
  """What `Delta` asks of the settings of a method that starts from zeros, image by image."""

  epsilon: float
  class_wise: bool = False
  init: str = "zeros"


def _networks(settings: Settings, sizes: Sizes, steps: int) -> tuple[tuple, tuple]:
  """Returns generator and classifier, and their optimisers.

  Raises:
    UserError: The images are too small for the generator, or do not fit the classifier.
  """
  height, width = sizes.image[:2]
  if min(height, width) < unet.MIN_SIDE:
    raise UserError(
      f"Images of {height}x{width} pixels are too small for the generator of gue: enlarge them to "
      f"at least {unet.MIN_SIDE}x{unet.MIN_SIDE} (data.size)."
    )
  generator = unet.UNet(settings.model.width, settings.model.dtype)
  classifier = models.build(settings.model, sizes.classes, sizes.image)
  rates = (
    optax.sgd(settings.generator_learning_rate),
    step.sgd(settings.source, settings.epochs, steps),
  )
  return (generator, classifier), rates


def game_step(
  generator: nn.Module,
  classifier: nn.Module,
  rates: tuple[optax.GradientTransformation, optax.GradientTransformation],
  settings: Settings,
) -> loops.Step:
  """One move of both players, `((Players, two Sums), Pass, index) -> (Players, two Sums)`.

  `Pass.delta` says which rows are perturbed.

  Args:
    generator: images `[batch, H, W, C]` -> outputs in (-1, 1) of that shape.
    classifier: returns (features, logits).
    rates: optimisers of the two.
    settings: Settings of the method.
  """
  response_rate = optax.adam(RESPONSE_RATE)

  def local(carry, constants, index):
    players, (learned, paid) = carry
    rows, batch = constants.batch(index)
    keys = prng.example_keys(constants.key, batch.ids)
    images = augment(settings.source.augment, keys, batch.images.astype(jnp.float32) / 255)
    perturbed = constants.delta[rows][:, None, None, None]

    def logits_of(params, images):
      (_, logits), _ = classifier.apply(
        {"params": params, "batch_stats": players.classifier.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.fold_in(constants.key, index)},
      )
      return logits

    def poisoned(params):
      outputs, updated = generator.apply(
        {"params": params, "batch_stats": players.generator.batch_stats},
        images,
        train=True,
        mutable=["batch_stats"],
      )
      delta = jnp.where(perturbed, settings.epsilon * outputs, 0.0)
      return jnp.clip(images + delta, 0.0, 1.0), updated["batch_stats"]

    # As in `fit.train_step`: gradients of replicated parameters arrive summed.
    def follower(params, images):
      logits = logits_of(params, images)
      return jax.lax.pmean(jnp.mean(objectives.cross_entropy(logits, batch.labels)), AXIS), logits

    def leader(params):
      return jax.lax.pmean(jnp.mean(payoff(logits_of(params, images), batch.labels)), AXIS)

    own, theta = players.generator.params, players.classifier.params
    seen, _ = poisoned(own)

    def improve(state):
      params, opt_state = state
      gradient, _ = jax.grad(follower, has_aux=True)(params, seen)
      updates, opt_state = response_rate.update(gradient, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    response, _ = loops.iterated(
      improve, (theta, response_rate.init(theta)), settings.response_steps
    )

    def gap(own, theta):
      images, batch_stats = poisoned(own)
      loss, logits = follower(theta, images)
      return loss - follower(response, images)[0], (loss, logits, batch_stats)

    wanted, pull = jax.value_and_grad(leader)(theta)
    closing, (loss, logits, batch_stats) = jax.grad(gap, argnums=(0, 1), has_aux=True)(own, theta)
    moves = directions(pull, *closing)
    networks = (players.generator, players.classifier)
    moved = []
    for network, move, rate in zip(networks, moves, rates, strict=True):
      updates, opt_state = rate.update(move, network.opt_state, network.params)
      params = optax.apply_updates(network.params, updates)
      moved.append(network.replace(params=params, opt_state=opt_state))
    players = Players(moved[0].replace(batch_stats=batch_stats), moved[1])
    correct = jax.lax.psum(jnp.sum(jnp.argmax(logits, axis=1) == batch.labels), AXIS)
    count = len(rows) * jax.lax.axis_size(AXIS)
    return players, (learned.add(index, loss, correct, count), paid.add(index, wanted, 0.0, 0.0))

  return jax.shard_map(
    local, in_specs=(jax.P(), step.pass_spec(jax.P(AXIS)), jax.P()), out_specs=jax.P()
  )


def payoff(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """What the leader minimises: the cross-entropy of the wrong class that is least expected.

  Args:
    logits: `[batch, classes]`.
    labels: `[batch]`.

  Returns:
    One value per row (nats), at least ln(classes - 1).
  """
  right = jnp.arange(logits.shape[1])[None, :] == labels[:, None]
  least = jnp.min(jnp.where(right, jnp.inf, logits), axis=1)
  return jax.nn.logsumexp(logits, axis=1) - least


def directions(pull: Any, closing_generator: Any, closing: Any) -> tuple[Any, Any]:
  """Against what the generator and the classifier move.

  Args:
    pull: gradient of F by the classifier's parameters.
    closing_generator: gradient of q by the generator's.
    closing: gradient of q by the classifier's.

  Returns:
    Trees like the last two; along them q changes at least at the rate `ETA ||grad q||^2`.
  """
  norm = _product(closing, closing) + _product(closing_generator, closing_generator)
  weight = jnp.maximum(0.0, (ETA * norm - _product(pull, closing)) / (norm + 1e-8))
  return (
    jax.tree.map(lambda q: weight * q, closing_generator),
    jax.tree.map(lambda f, q: f + weight * q, pull, closing),
  )


def _product(one: Any, other: Any) -> jax.Array:
  """Inner product of two trees."""
  return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), one, other)))


def _apply_step(generator: nn.Module, settings: Settings) -> loops.Step:
  """Returns the step that perturbs one batch.

  The step is `(Delta, (generator's State, Pass), index) -> Delta`.
  """

  def local(delta, constants, index):
    state, data = constants
    rows, batch = data.batch(index)
    images = batch.images.astype(jnp.float32) / 255
    outputs = generator.apply(state.variables, images, train=False)
    stored = budget.pack(settings.epsilon * outputs, delta.parts)
    return delta.replace(stored=delta.stored.at[rows].set(stored))

  spec = (jax.P(), step.pass_spec(jax.P(AXIS)))
  return jax.shard_map(local, in_specs=(jax.P(AXIS), spec, jax.P()), out_specs=jax.P(AXIS))
