"""Estimates lower bounds of mutual information by a small network: MINE, InfoNCE and NWJ.

A critic T(x, y) learns to score pairs from the same example higher than pairs from two examples. J
is the mean over the pairs from the same example, and M the mean over all other pairs of a batch:

  mine     J T - ln M e^T               Donsker-Varadhan; Belghazi et al., ICML 2018
  nwj      J T - M e^(T - 1)            Nguyen, Wainwright and Jordan, IEEE TIT 56, 2010
  infonce  J [T - ln mean_j e^T(x, y_j)]  van den Oord et al., 2018; at most ln(batch)

The network learns from one part of the samples and stops by a second. The bound is reported on a
third part that the network never saw.
"""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

MIN_SAMPLES = 100
WIDTH = 64  # of the critic's hidden layers
LEARNING_RATE = 1e-3

_BATCH = 64  # examples of a step; every one is paired with every other
_CHECK_EVERY = 100  # steps between looks at the second part of the samples
_PATIENCE = 5  # looks without a better bound before training stops; the best network counts
_SHARES = (0.6, 0.2, 0.2)  # of the samples: training, stopping, reporting
_CHUNK = 512  # examples whose pairs are scored together on the last two parts
_FEW = 500  # fewer reported samples than this lead to a warning


class Critic(nn.Module):
  """A network of two hidden layers on the concatenated pair, for every x with every y."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the scores `[a, b]` of features `[a, dx]` and `[b, dy]`."""
    chex.assert_rank([x, y], 2)
    # The first layer is linear in x and y: each is multiplied once rather than once a pair.
    first = nn.Dense(self.width)(x)[:, None, :]
    hidden = nn.relu(first + nn.Dense(self.width, use_bias=False)(y)[None, :, :])
    hidden = nn.relu(nn.Dense(self.width)(hidden))
    return nn.Dense(1)(hidden)[..., 0]


def scored(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns a critic's scores `[a, b]` of features `[a, dx]` and `[b, dy]`."""
  scores: Any = Critic(WIDTH).apply(params, x, y)
  return scores


def optimiser(learning_rate: float | jax.Array) -> optax.GradientTransformation:
  """Returns the optimiser of a critic."""
  # e^T can make a single gradient enormous.
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


def _split(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns J T and ln M e^T of scores `[batch, batch]`."""
  size = len(scores)
  others = jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, scores)
  return jnp.trace(scores) / size, jax.nn.logsumexp(others) - jnp.log(size * (size - 1))


def _value(bound: str, scores: jax.Array) -> jax.Array:
  """Returns the bound (nats) of scores `[batch, batch]`."""
  if bound == "infonce":
    mean = jax.nn.logsumexp(scores, axis=1) - jnp.log(len(scores))
    return jnp.mean(jnp.diagonal(scores) - mean)
  joint, log_others = _split(scores)
  return joint - (log_others if bound == "mine" else jnp.exp(log_others - 1))


def corrected(
  joint: jax.Array, log_others: jax.Array, average: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of MINE's critic with a corrected gradient, and the new moving average.

  The gradient of the logarithm over a batch is biased, because its denominator is the mean e^T of a
  few pairs. A moving average over batches replaces this mean (section 3.2 of MINE's paper).

  Args:
    joint: J T.
    log_others: ln M e^T.
    average: Logarithm of the moving average of M e^T; infinite before the first batch.
  """
  now = jax.lax.stop_gradient(log_others)
  rate = 0.05
  moved = jnp.logaddexp(jnp.log(1 - rate) + average, jnp.log(rate) + now)
  average = jnp.where(jnp.isinf(average), now, moved)
  return jnp.exp(log_others - average) - joint, average


def _loss(bound: str, scores: jax.Array, average: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of a bound's critic on scores `[batch, batch]`, as `corrected`."""
  if bound != "mine":
    return -_value(bound, scores), average
  return corrected(*_split(scores), average)


def point(
  bound: str, x: np.ndarray, y: np.ndarray, /, *, critic_steps: int = 5000, seed: int = 0
) -> Point:
  """Returns a variational lower bound (nats) for features `[samples, features]`.

  Args:
    bound: `mine`, `nwj` or `infonce`.
    x: Features `[samples, dx]`. Constant ones are dropped.
    y: Features `[samples, dy]`.
    critic_steps: Largest number of training steps; training stops earlier when the bound on the
      second part of the samples no longer rises.
    seed: Seed of the split, the weights and the batches.

  Raises:
    UserError: There are fewer than `MIN_SAMPLES` samples, or no steps.
  """
  if len(x) < MIN_SAMPLES:
    raise UserError(f"{len(x)} samples are too few to train on: use at least {MIN_SAMPLES}.")
  samples.whole("critic_steps", critic_steps, 1)
  x, y, details, warnings = samples.standardised(x, y)
  if not x.shape[1] or not y.shape[1]:
    return Point(0.0, details, warnings)
  order = np.random.default_rng(seed).permutation(len(x))
  ends = np.cumsum([int(share * len(x)) for share in _SHARES[:2]])
  learning, stopping, reporting = (
    (jnp.asarray(x[part], jnp.float32), jnp.asarray(y[part], jnp.float32))
    for part in np.split(order, ends)
  )
  params, taken, stopped = _fit(bound, learning, _chunks(stopping), critic_steps, seed)
  chunks = _chunks(reporting)
  mi = float(_bound_of(bound, params, chunks))
  reported = chunks[0].shape[0] * chunks[0].shape[1]
  details |= {"steps_taken": taken, "reported_samples": reported}
  if not stopped:
    warnings += (
      "Training ended before the bound stopped rising: raise critic_steps. If the bound diverged, "
      "use arcsinh of every feature, which has the same information.",
    )
  return Point(mi, details, warnings + _doubts(bound, mi, reported, chunks[0].shape[1]))


mine = functools.partial(point, "mine")
nwj = functools.partial(point, "nwj")
infonce = functools.partial(point, "infonce")


def _fit(bound: str, learning, stopping, critic_steps: int, seed: int):
  """Returns the best parameters, the number of steps, and whether training stopped by itself."""
  weights_key, order_key = jax.random.split(jax.random.key(seed))
  params = Critic(WIDTH).init(weights_key, learning[0][:1], learning[1][:1])
  state = params, optimiser(LEARNING_RATE).init(params), jnp.float32(jnp.inf)
  best, best_params, since = -np.inf, params, 0
  for done in range(0, critic_steps, _CHECK_EVERY):
    key = jax.random.fold_in(order_key, done)
    batch = min(_BATCH, len(learning[0]))
    state = _train(bound, batch, _CHECK_EVERY, state, learning, key, LEARNING_RATE)
    reached = float(_bound_of(bound, state[0], stopping))
    if not np.isfinite(reached):
      break
    if reached > best:
      best, best_params, since = reached, state[0], 0
    else:
      since += 1
    if since == _PATIENCE:
      break
  return best_params, done + _CHECK_EVERY, since == _PATIENCE


def _doubts(bound: str, mi: float, reported: int, chunk: int) -> tuple[str, ...]:
  """Returns warnings about a bound over `reported` samples, in chunks of `chunk` examples."""
  found = ()
  if reported < _FEW:
    found += (
      f"The bound is a mean over {reported} held-out samples: expect large errors below {_FEW}.",
    )
  limit = float(np.log(chunk))
  if bound == "infonce" and mi > limit - 0.5:
    found += (
      f"InfoNCE over {chunk} examples cannot exceed {limit:.2f} nats: the true value may be far "
      "higher.",
    )
  if bound != "infonce" and mi > np.log(reported):
    found += (
      f"A bound above ln({reported}) = {np.log(reported):.1f} nats rests on a few rare pairs, and "
      "its variance grows like e to its value: do not trust it.",
    )
  return found


def _chunks(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """Returns both sides as `[chunks, examples, features]`.

  The remainder, which is smaller than the number of chunks, is left out.
  """
  count = -(-len(part[0]) // _CHUNK)
  size = len(part[0]) // count
  x, y = (side[: count * size].reshape(count, size, -1) for side in part)
  return x, y


@functools.partial(jax.jit, static_argnums=0)
def _bound_of(bound: str, params, chunks) -> jax.Array:
  """Returns the mean bound over chunks of held-out samples."""
  return jnp.mean(jax.lax.map(lambda pair: _value(bound, scored(params, *pair)), chunks))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _train(bound: str, batch: int, steps: int, state, data, key, learning_rate):
  """Returns the state after `steps` steps, with batches drawn without replacement."""
  descent = optimiser(learning_rate)
  count = len(data[0])
  passes = -(-steps * batch // count)
  orders = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, passes))
  rows = orders.reshape(-1)[: steps * batch].reshape(steps, batch)

  def step(state, rows):
    params, opt_state, average = state

    def loss_of(params):
      return _loss(bound, scored(params, data[0][rows], data[1][rows]), average)

    gradients, average = jax.grad(loss_of, has_aux=True)(params)
    updates, opt_state = descent.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, average), None

  return jax.lax.scan(step, state, rows)[0]
