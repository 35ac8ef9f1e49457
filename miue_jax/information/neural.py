"""Lower bounds of mutual information by a small network: MINE, InfoNCE and NWJ.

A critic T(x, y) learns to score pairs of one example above pairs of two. With J the mean over pairs
of one example and M over all pairs of two, of `batch` examples:

  mine     J T - ln M e^T               Donsker-Varadhan; Belghazi et al., ICML 2018
  nwj      J T - M e^(T - 1)            Nguyen, Wainwright and Jordan, IEEE TIT 56, 2010
  infonce  J [T - ln mean_j e^T(x, y_j)]  van den Oord et al., 2018; at most ln(batch)

The network is trained on one part of the samples, stops by a second and the bound is reported on a
third that it never saw.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from miue_jax.information import samples
from miue_jax.information.samples import Point
from miue_jax.settings.errors import UserError

MIN_SAMPLES = 100

_SHARES = (0.6, 0.2, 0.2)  # of the samples: training, stopping, reporting
_CHUNK = 512  # examples whose pairs are scored together on the last two parts
_PATIENCE = 5  # checks without a better bound before training stops
_FEW = 500  # fewer reported samples than this are warned about


class Critic(nn.Module):
  """Scores every x with every y: a network of two hidden layers on the concatenated pair."""

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Features `[a, dx]`, and `[b, dy]` -> `[a, b]`."""
    # The first layer is linear in x and y, so each is multiplied once and not once a pair.
    first = nn.Dense(self.width)(x)[:, None, :]
    hidden = nn.relu(first + nn.Dense(self.width, use_bias=False)(y)[None, :, :])
    hidden = nn.relu(nn.Dense(self.width)(hidden))
    return nn.Dense(1)(hidden)[..., 0]


def _split(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
  """J T and ln M e^T of scores `[batch, batch]`."""
  size = len(scores)
  others = jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, scores)
  return jnp.trace(scores) / size, jax.nn.logsumexp(others) - jnp.log(size * (size - 1))


def _donsker_varadhan(scores: jax.Array) -> jax.Array:
  joint, log_others = _split(scores)
  return joint - log_others


def _nwj(scores: jax.Array) -> jax.Array:
  joint, log_others = _split(scores)
  return joint - jnp.exp(log_others - 1)


def _infonce(scores: jax.Array) -> jax.Array:
  mean = jax.nn.logsumexp(scores, axis=1) - jnp.log(len(scores))
  return jnp.mean(jnp.diagonal(scores) - mean)


_BOUNDS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "mine": _donsker_varadhan,
  "nwj": _nwj,
  "infonce": _infonce,
}


def corrected(
  joint: jax.Array, log_others: jax.Array, average: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """What MINE's critic minimises, and the new moving average.

  The gradient of MINE's logarithm over a batch is biased, because the mean e^T of a few pairs
  stands in its denominator; a moving average over batches takes its place (section 3.2 of its
  paper).

  Args:
    joint: J T.
    log_others: ln M e^T.
    average: logarithm of the moving average of M e^T; infinite before the first batch.
  """
  now = jax.lax.stop_gradient(log_others)
  rate = 0.05
  moved = jnp.logaddexp(jnp.log(1 - rate) + average, jnp.log(rate) + now)
  average = jnp.where(jnp.isinf(average), now, moved)
  return jnp.exp(log_others - average) - joint, average


def _loss(bound: str, scores: jax.Array, average: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What the critic of a key of `_BOUNDS` minimises on scores `[batch, batch]`, as `corrected`."""
  if bound != "mine":
    return -_BOUNDS[bound](scores), average
  return corrected(*_split(scores), average)


def point(
  bound: str,
  x: np.ndarray,
  y: np.ndarray,
  /,
  *,
  width: int = 64,
  batch: int = 64,
  learning_rate: float = 1e-3,
  steps: int = 5000,
  check_every: int = 100,
  seed: int = 0,
) -> Point:
  """Variational lower bound (nats) of the information of features `[samples, features]`.

  Args:
    bound: `mine`, `nwj` or `infonce`.
    x: `[samples, dx]`; constant features are dropped.
    y: `[samples, dy]`.
    width: of the critic's hidden layers.
    batch: examples of a step; every one is paired with every other.
    learning_rate: of Adam.
    steps: at most.
    check_every: steps between looks at the second part of the samples; training stops when five
      looks show nothing better, and the best network counts.
    seed: of the split, the weights and the batches.

  Raises:
    UserError: fewer than `MIN_SAMPLES` samples, or a setting out of range.
  """
  if len(x) < MIN_SAMPLES:
    raise UserError(f"{len(x)} samples are too few to train on: use at least {MIN_SAMPLES}.")
  for name, value in (("width", width), ("steps", steps), ("check_every", check_every)):
    if value < 1:
      raise UserError(f"{name} is {value}: use at least 1.")
  if batch < 2:
    raise UserError(f"batch is {batch}: use at least 2.")
  x, y, details, warnings = samples.both_standardised(x, y)
  if not x.shape[1] or not y.shape[1]:
    return Point(0.0, details, warnings)
  order = np.random.default_rng(seed).permutation(len(x))
  ends = np.cumsum([int(share * len(x)) for share in _SHARES[:2]])
  fit, stop, report = (
    tuple(jnp.asarray(side[part], jnp.float32) for side in (x, y)) for part in np.split(order, ends)
  )
  batch = min(batch, len(fit[0]))
  critic = Critic(width)
  weights_key, order_key = jax.random.split(jax.random.key(seed))
  params = critic.init(weights_key, fit[0][:1], fit[1][:1])
  state = params, optimiser(learning_rate).init(params), jnp.float32(jnp.inf)
  best, best_params, since = -np.inf, params, 0
  for done in range(0, steps, check_every):
    key = jax.random.fold_in(order_key, done)
    state = _train(bound, critic, learning_rate, batch, check_every, state, fit, key)
    reached = float(_bound_of(bound, critic, state[0], _chunks(stop)))
    if not np.isfinite(reached):
      break
    best, best_params, since = (
      (reached, state[0], 0) if reached > best else (best, best_params, since + 1)
    )
    if since == _PATIENCE:
      break
  chunks = _chunks(report)
  mi = float(_bound_of(bound, critic, best_params, chunks))
  reported = chunks[0].shape[0] * chunks[0].shape[1]
  details |= {"steps_taken": done + check_every, "reported_samples": reported}
  limit = float(np.log(chunks[0].shape[1]))
  if since < _PATIENCE:
    warnings += (
      "Training ended before the bound stopped rising: raise steps, or lower learning_rate if it "
      "diverged.",
    )
  if reported < _FEW:
    warnings += (
      f"The bound is a mean over {reported} held-out samples: expect large errors below {_FEW}.",
    )
  if bound == "infonce" and mi > limit - 0.5:
    warnings += (
      f"InfoNCE over {chunks[0].shape[1]} examples cannot exceed {limit:.2f} nats: the true value "
      "may be far higher.",
    )
  if bound != "infonce" and mi > np.log(reported):
    warnings += (
      f"A bound above ln({reported}) = {np.log(reported):.1f} nats rests on a few rare pairs, and "
      "its variance grows like e to its value: do not trust it.",
    )
  return Point(mi, details, warnings)


mine = functools.partial(point, "mine")
nwj = functools.partial(point, "nwj")
infonce = functools.partial(point, "infonce")


def _chunks(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """Both sides as `[chunks, examples, features]`; less than one example a chunk is left out."""
  count = -(-len(part[0]) // _CHUNK)
  size = len(part[0]) // count
  return tuple(side[: count * size].reshape(count, size, -1) for side in part)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _bound_of(bound: str, critic: Critic, params, chunks) -> jax.Array:
  """Mean bound over chunks of held-out samples."""
  return jnp.mean(jax.lax.map(lambda pair: _BOUNDS[bound](critic.apply(params, *pair)), chunks))


def optimiser(learning_rate: float | jax.Array) -> optax.GradientTransformation:
  """Of a critic."""
  # e^T can make a single gradient enormous.
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(learning_rate))


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 4))
def _train(bound: str, critic: Critic, learning_rate, batch: int, steps: int, state, data, key):
  """`steps` steps on batches drawn without replacement until the samples are used up.

  Args:
    bound: a key of `_BOUNDS`.
    critic: the network.
    learning_rate: of Adam.
    batch: examples of a step.
    steps: to take.
    state: parameters, optimiser state, moving average.
    data: x and y, `[samples, features]` each.
    key: of the order.
  """
  count = len(data[0])
  passes = -(-steps * batch // count)
  orders = jax.vmap(lambda k: jax.random.permutation(k, count))(jax.random.split(key, passes))
  rows = orders.reshape(-1)[: steps * batch].reshape(steps, batch)
  descent = optimiser(learning_rate)

  def step(state, rows):
    params, opt_state, average = state

    def loss_of(params):
      return _loss(bound, critic.apply(params, data[0][rows], data[1][rows]), average)

    gradients, average = jax.grad(loss_of, has_aux=True)(params)
    updates, opt_state = descent.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, average), None

  return jax.lax.scan(step, state, rows)[0]
