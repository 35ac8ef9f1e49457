"""EM and AP with MINE: a control experiment of the MI-UE paper (Zhu et al., ICLR 2026).

  theta is trained as in EM (em.py) or AP (ap.py); before every sign step
    T     <- argmax  I_T(g(x); g(x + delta))                             one step of Adam
    delta <- argmin  L(f(x + delta), y) + zeta I_T(g(x); g(x + delta)),  |delta| <= eps

L is the loss of EM or AP. The additional term estimates the mutual information between clean and
poisoned features by the Donsker-Varadhan bound of MINE (Belghazi et al., ICML 2018). Its statistics
network T scores every clean image of the batch with every poisoned one:

  I_T = mean_i T(z_i, z'_i) - ln mean_{i != j} e^T(z_i, z'_j)

If low information makes a poison strong, the term makes poisons stronger. The published clean test
accuracy of a ResNet-18 on CIFAR-10 falls from 24.17 % to 15.62 % (EM) and from 11.21 % to 10.01 %
(AP).

T, its optimiser, its schedule and zeta are not published. Here T, the rate of Adam and the
corrected gradient are those of `information.neural`. T learns while delta moves, since AP has no
delta before, and both see the same augmentation. AP compares restarts without the term, which
belongs to a batch and not to an image.
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from miue_jax.information import neural
from miue_jax.machine.meshes import AXIS
from miue_jax.methods import ap, em, sign_step
from miue_jax.settings.schema import NonNegative, settings


@settings
class EmSettings(em.Settings):
  """Settings of EM with MINE."""

  name: str = "em_mine"
  information_weight: NonNegative = 0.1  # zeta; the paper does not publish it


@settings
class ApSettings(ap.Settings):
  """Settings of targeted AP with MINE."""

  name: str = "ap_mine"
  information_weight: NonNegative = 0.1  # zeta; the paper does not publish it


class State(flax.struct.PyTreeNode):
  """T in training.

  Attributes:
    params: Parameters of T.
    opt_state: State of the optimiser.
    average: Logarithm of the moving average of the mean e^T; infinite before the first step.
  """

  params: optax.Params
  opt_state: optax.OptState
  average: jax.Array


def auxiliary(settings: EmSettings | ApSettings) -> sign_step.Auxiliary:
  """Returns T and its term, `zeta I_T`."""
  optimiser = neural.optimiser(neural.LEARNING_RATE)

  def start(key, features):
    example = jnp.zeros((1, features))
    params = neural.Critic(neural.WIDTH).init(key, example, example)
    return State(params, optimiser.init(params), jnp.float32(jnp.inf))

  def term(state, clean, poisoned, weights):
    # Clean features are gathered, since they need no gradient.
    columns, column_weights = jax.lax.all_gather((clean, weights), AXIS, tiled=True)
    columns = jax.lax.stop_gradient(columns)

    def parts(params, rows):
      return bound(neural.scored(params, columns, rows).T, weights, column_weights)

    def loss_of(params):
      own, log_others = parts(params, jax.lax.stop_gradient(poisoned))
      total = jax.lax.psum(jnp.sum(weights), AXIS)
      joint = jax.lax.psum(jnp.sum(weights * own), AXIS) / jnp.maximum(total, 1e-12)
      return neural.corrected(joint, log_others, state.average)

    gradients, average = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    own, log_others = parts(params, poisoned)
    return settings.information_weight * (own - log_others), State(params, opt_state, average)

  return sign_step.Auxiliary(start, term)


def bound(
  scores: jax.Array, weights: jax.Array, column_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns both terms of the Donsker-Varadhan bound on the global batch, inside `shard_map`.

  The bound is the mean of the first term, weighted by `weights`, minus the second.

  Args:
    scores: Values of T for the local poisoned images and all clean ones, `[rows, columns]`.
    weights: Weights of the rows; 0 for padding.
    column_weights: Weights of all rows of the global batch.

  Returns:
    T of every local image with itself, `[rows]`, and `ln( sum_{i != j} w_i w_j e^T_ij /
    sum_{i != j} w_i w_j )`, a scalar. Both are 0 if the batch has fewer than two images.
  """
  count = len(scores)
  self = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
  pairs = weights[:, None] * column_weights[None, :]
  pairs = jnp.where(self[:, None] == jnp.arange(scores.shape[1])[None, :], 0.0, pairs)
  total = jax.lax.psum(jnp.sum(pairs), AXIS)
  there = pairs > 0
  # The largest score is subtracted from the exponent, as in logsumexp.
  top = jnp.max(jnp.where(there, jax.lax.stop_gradient(scores), -jnp.inf))
  top = jnp.where(total > 0, jax.lax.pmax(top, AXIS), 0.0)
  raised = jnp.where(there, pairs * jnp.exp(jnp.where(there, scores - top, 0.0)), 0.0)
  mean = jax.lax.psum(jnp.sum(raised), AXIS) / jnp.where(total > 0, total, 1.0)
  own = jnp.take_along_axis(scores, self[:, None], axis=1)[:, 0]
  log_others = top + jnp.log(jnp.where(total > 0, mean, 1.0))
  return jnp.where(total > 0, own, 0.0), log_others
