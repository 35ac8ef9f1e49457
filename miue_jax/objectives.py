"""Provides losses as pure functions of features, logits and labels.

The contrastive terms return one value per *row*, computed against a set of *columns*. On one device
rows and columns are the same batch. On several devices the rows are the local shard and the columns
are the gathered global batch, so the loss does not depend on the number of devices.

L_sim and L_dist are the two terms of the mutual-information reduction loss of Zhu et al., "Why Do
Unlearnable Examples Work: A Novel Perspective of Mutual Information", ICLR 2026, arXiv 2603.03725.
"""

import chex
import jax
import jax.numpy as jnp
import optax

__all__ = ["class_balance", "cross_entropy", "distance", "mi_reduction", "similarity"]

# Features shorter than this are treated as if they had this length: the cosine of a zero vector is
# 0 and its gradient is finite.
MIN_NORM = 1e-6


def mi_reduction(
  features: jax.Array,
  labels: jax.Array,
  columns: jax.Array | None = None,
  column_labels: jax.Array | None = None,
  weights: jax.Array | None = None,
  *,
  tau: float = 0.1,
  zeta: float = 0.1,
  similarity_weight: float = 1.0,
) -> jax.Array:
  """Returns the mutual-information reduction loss `L_sim + zeta L_dist`, one value per row.

  The loss L_mi of a batch is the mean of the rows. A term of weight 0 is not computed.

  Args:
    features: Poisoned features of the rows, `[rows, d]`.
    labels: Integer labels of the rows, `[rows]`.
    columns: Poisoned features of the whole batch, `[columns, d]`; None for `features`.
    column_labels: Integer labels of the columns, `[columns]`; None for `labels`.
    weights: Weights of the columns, `[columns]`, 0 for padding; None for 1.
    tau: Temperature of the similarity term, greater than 0.
    zeta: Weight of the distance term; a number, not an array that jax traces.
    similarity_weight: Weight of the similarity term, 1 in the paper; a number as well.

  Returns:
    Loss of every row, `[rows]`.

  Example:
    >>> import jax.numpy as jnp
    >>> from miue_jax import objectives
    >>> features = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> labels = jnp.array([0, 0, 1])
    >>> loss = objectives.mi_reduction(features, labels, tau=0.1, zeta=0.1)
    >>> [round(float(value), 3) for value in loss]
    [0.041, 0.041, 0.0]
  """
  columns = features if columns is None else columns
  column_labels = labels if column_labels is None else column_labels
  weights = jnp.ones(len(columns), columns.dtype) if weights is None else weights
  chex.assert_rank([features, columns], 2)
  chex.assert_shape(labels, features.shape[:1])
  chex.assert_shape([column_labels, weights], columns.shape[:1])
  same = labels[:, None] == column_labels[None, :]
  loss = jnp.zeros(features.shape[:1], features.dtype)
  if similarity_weight:
    loss += similarity_weight * similarity(features, columns, same, weights, tau)
  if zeta:
    same_columns = column_labels[:, None] == column_labels[None, :]
    loss += zeta * distance(features, columns, same, same_columns, weights)
  return loss


def similarity(
  features: jax.Array,
  columns: jax.Array,
  same: jax.Array,
  weights: jax.Array,
  tau: float,
) -> jax.Array:
  """Returns the similarity term L_sim of the loss, one value per row (nats).

  `-log( sum_{j: y_j = y_i} w_j exp(cos(z_i, z_j) / tau) / sum_j w_j exp(cos(z_i, z_j) / tau) )`,
  with the self-pair in both sums.

  Args:
    features: Features z_i of the rows, `[rows, d]`.
    columns: Features z_j, `[columns, d]`.
    same: Whether y_i = y_j, bool `[rows, columns]`.
    weights: Weights w_j, `[columns]`, 0 for padding.
    tau: Temperature.

  Returns:
    Term of every row, `[rows]`; 0 for a row whose class has no column of positive weight.
  """
  _check(features, columns, same, weights)
  logits = jnp.dot(unit(features), unit(columns).T, precision="highest") / tau
  logits += jnp.log(weights)[None, :]
  positives = jnp.where(same, logits, -jnp.inf)
  has_positive = jnp.any(same & (weights > 0)[None, :], axis=1)
  # Rows without a positive get harmless logits, so that neither value nor gradient is NaN.
  positives = jnp.where(has_positive[:, None], positives, 0.0)
  logits = jnp.where(has_positive[:, None], logits, 0.0)
  loss = jax.nn.logsumexp(logits, axis=1) - jax.nn.logsumexp(positives, axis=1)
  return jnp.where(has_positive, loss, 0.0)


def distance(
  features: jax.Array,
  columns: jax.Array,
  same: jax.Array,
  same_columns: jax.Array,
  weights: jax.Array,
) -> jax.Array:
  """Returns the distance term L_dist of the loss, one value per row.

  `log( 1 + (1/d) sum_{j: y_j = y_i} w_j ||z_i - z_j||_2 )`, where d is the number of features.

  Distances are computed from inner products. Only distances inside a class matter, so features are
  first shifted by their class mean: distances stay the same and the subtraction cancels less.

  Args:
    features: Features z_i of the rows, `[rows, d]`.
    columns: Features z_j, `[columns, d]`.
    same: Whether y_i = y_j, bool `[rows, columns]`.
    same_columns: Whether y_j = y_k, bool `[columns, columns]`.
    weights: Weights w_j, `[columns]`, 0 for padding.

  Returns:
    Term of every row, `[rows]`.
  """
  _check(features, columns, same, weights)
  chex.assert_shape(same_columns, (len(columns), len(columns)))
  fixed = jax.lax.stop_gradient(columns)
  rows = features - _class_means(same, weights, fixed)
  columns = columns - _class_means(same_columns, weights, fixed)
  squared = (
    jnp.sum(rows**2, axis=1)[:, None]
    + jnp.sum(columns**2, axis=1)[None, :]
    - 2 * jnp.dot(rows, columns.T, precision="highest")
  )
  pairs = jnp.where(same, weights[None, :] * safe_sqrt(squared), 0.0)
  return jnp.log1p(jnp.sum(pairs, axis=1) / rows.shape[1])


def class_balance(labels: jax.Array, valid: jax.Array) -> jax.Array:
  """Returns weights that give every class of a batch the same total weight.

  The weight of an entry is proportional to `1 / (entries of its class)`. Weights average to 1 over
  valid entries and are 0 for padding.

  Args:
    labels: Integer labels `[batch]`.
    valid: Bool `[batch]`, false for padding.

  Returns:
    Weights `[batch]`.
  """
  chex.assert_rank([labels, valid], 1)
  members = jnp.sum((labels[:, None] == labels[None, :]) & valid[None, :], axis=1)
  weights = jnp.where(valid, 1.0 / jnp.maximum(members, 1), 0.0)
  return weights * jnp.sum(valid) / jnp.maximum(jnp.sum(weights), 1e-12)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the softmax cross-entropy `-log softmax(logits)_y` in nats, one value per row.

  Args:
    logits: Logits `[batch, classes]`.
    labels: Integer labels y, `[batch]`.

  Returns:
    Loss of every row, `[batch]`.
  """
  chex.assert_rank(logits, 2)
  chex.assert_shape(labels, logits.shape[:1])
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _check(features: jax.Array, columns: jax.Array, same: jax.Array, weights: jax.Array) -> None:
  """Asserts the shapes of the arguments that both terms have."""
  chex.assert_rank([features, columns], 2)
  chex.assert_equal_shape_suffix([features, columns], 1)
  chex.assert_shape(same, (len(features), len(columns)))
  chex.assert_shape(weights, (len(columns),))


def unit(features: jax.Array) -> jax.Array:
  """Scales features `[n, d]` to length 1."""
  squared = jnp.sum(features**2, axis=1, keepdims=True)
  return features * jax.lax.rsqrt(jnp.maximum(squared, MIN_NORM**2))


def _class_means(same: jax.Array, weights: jax.Array, features: jax.Array) -> jax.Array:
  """Returns the mean feature of every row's class, `[rows, d]`."""
  members = same * (weights > 0)[None, :].astype(features.dtype)
  counts = jnp.maximum(jnp.sum(members, axis=1, keepdims=True), 1.0)
  return jnp.dot(members, features, precision="highest") / counts


def safe_sqrt(squared: jax.Array) -> jax.Array:
  """Returns the square root, with gradient 0 at 0 (self-pairs, equal features) instead of NaN."""
  positive = squared > 1e-12
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
