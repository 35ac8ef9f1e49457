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

so that q falls whatever F wants. In the end every image gets what the generator makes of it, batch
norm in inference mode: no image has a perturbation of its own before that.

`source` is how theta moves, and `source.augment` what both players see; `method.epochs` counts
passes over the images, `method.steps` the Adam steps; rate_a is `method.generator_learning_rate`.
`model` describes f, and its width that of G. `method.batch_size` only applies the finished
generator. The authors keep the generator after whose epoch a new classifier did worst on clean test
images; here it is the last, and no test image is used.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax import budget, models, objectives
from miue_jax.data.dataset import Dataset
from miue_jax.machine import loops, prng, sharding, signals
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.machine.meshes import AXIS
from miue_jax.machine.progress import Reporter
from miue_jax.methods import delta as deltas
from miue_jax.methods.generated import Generated
from miue_jax.models import unet
from miue_jax.settings.config import Config, Method
from miue_jax.settings.errors import UserError
from miue_jax.train import fit
from miue_jax.transforms.augment import augment

ETA = 1.5
RESPONSE_RATE = 1e-4  # of the Adam steps towards the follower's best response


@flax.struct.dataclass
class Players:
  """Both networks in training; batch norm of the classifier always has the batch's statistics."""

  generator: fit.State
  classifier: fit.State


@flax.struct.dataclass
class _Loop:
  """What a checkpoint holds; the sums are the follower's and the leader's."""

  players: Players
  sums: tuple[fit.Sums, fit.Sums]
  history: jax.Array
  seconds: jax.Array


def generate(
  dataset: Dataset, config: Config, checkpoints: Checkpoints, progress: Reporter
) -> Generated:
  """Makes a GUE poison; arguments and errors as `alternating.generate`."""
  method, train = config.method, dataset.train
  if method.class_wise or method.balanced:
    raise UserError(
      f"Method {method.name} has one generator for all images, which count alike: set "
      "method.class_wise=False and method.balanced=False."
    )
  image = train.images.shape[1:]
  if min(image[:2]) < unet.MIN_SIDE:
    raise UserError(
      f"Images of {image[0]}x{image[1]} pixels are too small for the generator of {method.name}: "
      f"enlarge them to at least {unet.MIN_SIDE}x{unet.MIN_SIDE} (data.size)."
    )
  layout = deltas.lay_out(train, config)
  steps = layout.steps(config.source.batch_size, partial=False)
  table = layout.place(train)
  chosen = deltas.chosen_images(train.labels, method, config.seed)
  perturbed = deltas.perturbed_rows(chosen, layout)
  generator = unet.UNet(config.model.width, config.model.dtype)
  classifier = models.build(config.model, dataset.num_classes, image)
  rates = optax.sgd(method.generator_learning_rate), fit.sgd(config.source, method.epochs, steps)
  run = loops.repeated(step(generator, classifier, rates, config))
  shuffle = fit.shuffler(config.source.batch_size)

  loop = _Loop(
    Players(
      fit.init(generator, rates[0], prng.stream(config.seed, "generator"), image),
      fit.init(classifier, rates[1], prng.stream(config.seed, "weights"), image),
    ),
    (fit.Sums.zero(), fit.Sums.zero()),
    sharding.replicate(np.zeros((method.epochs, 3), np.float32)),
    sharding.replicate(np.float32(0)),
  )
  position, loop = checkpoints.restore(loop) or (0, loop)
  report = progress("generate", method.epochs * steps, method.epochs, position)
  clock = fit.Clock(loop.seconds)

  def leave():
    checkpoints.save(position, loop.replace(seconds=clock.read()))
    raise signals.Interrupted(signals.received())

  with signals.stop_on_signal():
    for epoch in range(position // steps + 1, method.epochs + 1):
      before = (epoch - 1) * steps
      key = prng.stream(config.seed, "game", epoch)
      data = fit.Pass(table, perturbed, shuffle(key, table.ids), key)
      (players, sums), done = run(
        (loop.players, loop.sums),
        data,
        position - before,
        steps,
        tick=lambda index, before=before: report.tick(before + index),
      )
      loop, position = loop.replace(players=players, sums=sums), before + done
      if done < steps:
        leave()
      loss, accuracy = sums[0].read(f"the source model, epoch {epoch}")
      payoff, _ = sums[1].read(f"the generator, epoch {epoch}")
      values = {"source_loss": loss, "source_accuracy": accuracy, "objective": payoff}
      report.report(position, epoch, values)
      history = np.array(sharding.fetch(loop.history))
      history[epoch - 1] = list(values.values())
      loop = loop.replace(
        history=sharding.replicate(history),
        sums=(fit.Sums.zero(), fit.Sums.zero()),
        seconds=clock.read(),
      )
      if epoch % method.checkpoint_every == 0 or epoch == method.epochs:
        checkpoints.save(position, loop)

    key = prng.stream(config.seed, "delta")
    data = fit.Pass(table, None, fit.shuffler(method.batch_size)(key, table.ids), key)
    batches = layout.steps(method.batch_size, partial=True)
    delta = sharding.zeros((len(layout.ids), *image), np.int16, jax.P(AXIS))
    apply = loops.repeated(_apply_step(generator, method))
    delta, done = apply(delta, (loop.players.generator, data), 0, batches)
    if done < batches:
      leave()
  report.close()

  released = deltas.released(layout, table, delta, perturbed, method)
  columns = sharding.fetch(loop.history).astype(np.float64).round(6).T
  names = ("source_loss", "source_accuracy", "objective")
  return Generated(
    released,
    float(loop.seconds),
    None if chosen.all() else np.flatnonzero(chosen),
    {name: column.tolist() for name, column in zip(names, columns, strict=True)},
  )


def step(
  generator: nn.Module,
  classifier: nn.Module,
  rates: tuple[optax.GradientTransformation, optax.GradientTransformation],
  config: Config,
) -> loops.Step:
  """One move of both players, `((Players, two Sums), Pass, index) -> (Players, two Sums)`.

  `Pass.delta` says which rows are perturbed.

  Args:
    generator: images `[batch, H, W, C]` -> outputs in (-1, 1) of that shape.
    classifier: returns (features, logits).
    rates: optimisers of the two.
    config: `method` and `source.augment` matter here.
  """
  method = config.method
  response_rate = optax.adam(RESPONSE_RATE)

  def local(carry, constants, index):
    players, (learned, paid) = carry
    rows, batch = constants.batch(index)
    keys = prng.example_keys(constants.key, batch.ids)
    images = augment(config.source.augment, keys, batch.images.astype(jnp.float32) / 255)
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
      delta = jnp.where(perturbed, method.epsilon * outputs, 0.0)
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

    response, _ = loops.iterated(improve, (theta, response_rate.init(theta)), method.steps)

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
    local, in_specs=(jax.P(), fit.pass_spec(jax.P(AXIS)), jax.P()), out_specs=jax.P()
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


def _apply_step(generator: nn.Module, method: Method) -> loops.Step:
  """Perturbs one batch, `(packed delta, (generator's State, Pass), index) -> packed delta`."""
  parts = budget.resolution(method.epsilon_start)

  def local(table, constants, index):
    state, data = constants
    rows, batch = data.batch(index)
    images = batch.images.astype(jnp.float32) / 255
    outputs = generator.apply(state.variables, images, train=False)
    return table.at[rows].set(budget.pack(method.epsilon * outputs, parts))

  spec = (jax.P(), fit.pass_spec(jax.P(AXIS)))
  return jax.shard_map(local, in_specs=(jax.P(AXIS), spec, jax.P()), out_specs=jax.P(AXIS))
