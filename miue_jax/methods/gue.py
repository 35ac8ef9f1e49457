"""GUE: game unlearnable examples (Liu et al., AAAI 2024, arXiv 2401.17523).

A generator G_a, a U-Net with outputs in (-1, 1), perturbs images, x' = clip(x + eps G_a(x)). It is
the leader of a Stackelberg game, and a classifier f_theta is the follower:

  follower   g(a, theta) = mean CE(f_theta(x'), y)                    learns from the poison
  leader     F(theta) = mean max_{k != y} CE(f_theta(x), k)           wants errors on clean images

F is the paper's payoff. It is bounded below by ln(classes - 1), which minus the cross-entropy of
the true class is not. Both players move on every batch, by the first-order method of BOME (Liu et
al., NeurIPS 2022). Its q(a, theta) = g(a, theta) - g(a, theta*) is the loss of the follower minus
that of its best response theta*. A few Adam steps from theta approximate theta*, which is a
constant for the gradient:

  lambda <- max(0, eta - <grad F, grad q> / ||grad q||^2)
  a      <- a - rate_a lambda grad_a q
  theta  <- theta - rate_theta (grad F + lambda grad_theta q)

The choice of lambda makes q decrease, whatever the gradient of F is. In the end the generator
perturbs every image, with BatchNorm in inference mode; before that, the stored delta is zero.

The authors keep the generator of the epoch whose poison left a new classifier the lowest accuracy
on clean test images. Here the last generator is used, and no test image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from miue_jax import budget, models, objectives
from miue_jax.machine import loops, prng
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import delta as deltas
from miue_jax.methods.method import Sizes
from miue_jax.methods.stepwise import Procedure, Reading, Stage, Stepwise, Turn, due
from miue_jax.models import unet
from miue_jax.settings.config import Method, Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import Count, Positive, settings
from miue_jax.train import step
from miue_jax.transforms import augment

ETA = 1.5
RESPONSE_RATE = 1e-4  # learning rate of Adam towards the best response


@settings
class Settings(Method):
  """Settings of GUE, with the values of the paper for CIFAR-10."""

  name: str = "gue"
  model: Model = Model()  # the classifier; the generator has the same width
  # Optimiser of the classifier, at a constant rate; `augment` applies to both players.
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
  generator_learning_rate: Positive = 0.1  # of the optimiser of the generator
  batch_size: Count = 512  # images that the finished generator perturbs at a time
  checkpoint_every: Count = 5  # epochs between checkpoints
  # The perturbation is zero until the generator makes it, for single images.
  init = "zeros"
  class_wise = False


@dataclasses.dataclass(frozen=True)
class Game(Stepwise):
  """A method in which a generator and a classifier play against each other."""

  settings: type[Settings]

  def procedure(self, settings: Any, sizes: Sizes, seed: int) -> Procedure:
    """Returns the moves of the game and the perturbation of all images; see `stepwise.Stepwise`."""
    layout = deltas.lay_out(sizes.train, settings, seed)
    steps = layout.steps(settings.source.batch_size, partial=False)
    networks = _networks(settings, sizes)
    rates = (
      optax.sgd(settings.generator_learning_rate),
      step.sgd(settings.source, settings.epochs, steps),
    )
    play = Stage(
      "game",
      settings.source.batch_size,
      steps,
      1,
      game_step(*networks, rates, settings),
      ("generator", "classifier", "learned", "paid"),
      lambda parts, data, perturbed, size: data.replace(delta=perturbed),
    )
    apply = Stage(
      "apply",
      settings.batch_size,
      layout.steps(settings.batch_size, partial=True),
      1,
      _apply_step(networks[0], settings),
      ("delta",),
      lambda parts, data, perturbed, size: (parts["generator"], data),
    )

    def turn(epoch: int) -> Turn:
      readings = (
        Reading("learned", f"the source model, epoch {epoch}", ("source_loss", "source_accuracy")),
        Reading("paid", f"the generator, epoch {epoch}", ("objective",)),
      )
      save = due(settings, epoch, settings.epochs)
      return Turn(play, epoch, ("game", epoch), readings, save=save)

    def start(key, delta):
      del delta
      keys = key("generator"), key("weights")
      generator, classifier = (
        step.fresh_state(network, rate, key, sizes.image)
        for network, rate, key in zip(networks, rates, keys, strict=True)
      )
      return {"generator": generator, "classifier": classifier}

    return Procedure(
      layout,
      (play, apply),
      (
        *(turn(epoch) for epoch in range(1, settings.epochs + 1)),
        Turn(apply, settings.epochs, ("delta",), reports=False, save=True),
      ),
      ("source_loss", "source_accuracy", "objective"),
      start,
    )


def _networks(settings: Settings, sizes: Sizes) -> tuple[nn.Module, nn.Module]:
  """Returns generator and classifier."""
  height, width = sizes.image[:2]
  if min(height, width) < unet.MIN_SIDE:
    raise UserError(
      f"Images of {height}x{width} pixels are too small for the generator of gue: enlarge them to "
      f"at least {unet.MIN_SIDE}x{unet.MIN_SIDE} (data.size)."
    )
  generator = unet.UNet(settings.model.width, settings.model.dtype)
  return generator, models.build(settings.model, sizes.classes, sizes.image)


def game_step(
  generator: nn.Module,
  classifier: nn.Module,
  rates: tuple[optax.GradientTransformation, optax.GradientTransformation],
  settings: Settings,
) -> loops.Step:
  """Returns one move of both players.

  The step is `(carry, Pass, index) -> carry`; the carry is `(generator's State, classifier's State,
  Sums of the follower, Sums of the leader)`. `Pass.delta` says which rows are perturbed. The
  BatchNorm of the classifier always uses the statistics of the batch.

  Args:
    generator: Network, images `[batch, H, W, C]` -> outputs in (-1, 1) of that shape.
    classifier: Network that returns (features, logits).
    rates: Optimisers of the two.
    settings: Settings of the method.
  """

  def local(carry, constants, index):
    leader, follower, learned, paid = carry
    rows, batch = constants.batch(index)
    keys = prng.example_keys(constants.key, batch.ids)
    images = augment(settings.source.augment, keys, batch.images.astype(jnp.float32) / 255)
    perturbed = constants.delta[rows][:, None, None, None]
    dropout = jax.random.fold_in(constants.key, index)

    def poisoned(own):
      outputs, batch_stats = step.applied(generator, leader, own, images, dropout)
      delta = jnp.where(perturbed, settings.epsilon * outputs, 0.0)
      return jnp.clip(images + delta, 0.0, 1.0), batch_stats

    def logits_of(theta, images):
      return step.applied(classifier, follower, theta, images, dropout)[0][1]

    # As in `step.update`: gradients of replicated parameters arrive summed.
    def loss_of(theta, images):
      logits = logits_of(theta, images)
      return jax.lax.pmean(jnp.mean(objectives.cross_entropy(logits, batch.labels)), AXIS), logits

    def payoff_of(theta):
      return jax.lax.pmean(jnp.mean(payoff(logits_of(theta, images), batch.labels)), AXIS)

    own, theta = leader.params, follower.params
    seen, _ = poisoned(own)
    response = _response(lambda theta: loss_of(theta, seen), theta, settings.response_steps)

    def gap(own, theta):
      images, batch_stats = poisoned(own)
      loss, logits = loss_of(theta, images)
      return loss - loss_of(response, images)[0], (loss, logits, batch_stats)

    wanted, pull = jax.value_and_grad(payoff_of)(theta)
    closing, (loss, logits, batch_stats) = jax.grad(gap, argnums=(0, 1), has_aux=True)(own, theta)
    moves = directions(pull, *closing)
    correct = jax.lax.psum(jnp.sum(jnp.argmax(logits, axis=1) == batch.labels), AXIS)
    count = len(rows) * jax.lax.axis_size(AXIS)
    return (
      _moved(leader, moves[0], rates[0]).replace(batch_stats=batch_stats),
      _moved(follower, moves[1], rates[1]),
      learned.add(index, loss, correct, count),
      paid.add(index, wanted, 0.0, 0.0),
    )

  return jax.shard_map(
    local, in_specs=(jax.P(), step.pass_spec(jax.P(AXIS)), jax.P()), out_specs=jax.P()
  )


def _response(loss_of: Callable[[Any], tuple[jax.Array, Any]], theta: Any, steps: int) -> Any:
  """Returns the parameters after some Adam steps on `loss_of`, which returns auxiliary data too."""
  optimiser = optax.adam(RESPONSE_RATE)

  def improve(state):
    params, opt_state = state
    gradient, _ = jax.grad(loss_of, has_aux=True)(params)
    updates, opt_state = optimiser.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  return loops.iterated(improve, (theta, optimiser.init(theta)), steps)[0]


def _moved(state: step.State, move: Any, optimiser: optax.GradientTransformation) -> step.State:
  """Returns a state after a step of its optimiser against `move`."""
  updates, opt_state = optimiser.update(move, state.opt_state, state.params)
  return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)


def payoff(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the loss of the leader: the cross-entropy of the least likely wrong class.

  Args:
    logits: Logits `[batch, classes]`.
    labels: Integer labels `[batch]`.

  Returns:
    One value per row (nats), at least ln(classes - 1).
  """
  right = jnp.arange(logits.shape[1])[None, :] == labels[:, None]
  least = jnp.min(jnp.where(right, jnp.inf, logits), axis=1)
  return jax.nn.logsumexp(logits, axis=1) - least


def directions(pull: Any, closing_generator: Any, closing: Any) -> tuple[Any, Any]:
  """Returns the directions against which the generator and the classifier move.

  Args:
    pull: Gradient of F with respect to the parameters of the classifier.
    closing_generator: Gradient of q with respect to the parameters of the generator.
    closing: Gradient of q with respect to the parameters of the classifier.

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
  """Returns the inner product of two trees."""
  return jax.tree.reduce(jnp.add, jax.tree.map(lambda x, y: jnp.sum(x * y), one, other))


def _apply_step(generator: nn.Module, settings: Settings) -> loops.Step:
  """Returns the step `((Delta,), (generator's State, Pass), index) -> (Delta,)` on one batch."""

  def local(carry, constants, index):
    (delta,), (state, data) = carry, constants
    rows, batch = data.batch(index)
    images = batch.images.astype(jnp.float32) / 255
    outputs: Any = generator.apply(state.variables, images, train=False)
    stored = budget.pack(settings.epsilon * outputs, delta.parts)
    return (delta.put(rows, stored),)

  spec = (jax.P(), step.pass_spec(jax.P(AXIS)))
  return jax.shard_map(local, in_specs=(jax.P(AXIS), spec, jax.P()), out_specs=jax.P(AXIS))
