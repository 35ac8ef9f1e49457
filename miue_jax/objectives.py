"""Losses: pure functions of features, logits and labels.

Each contrastive term comes as one value per *row*, computed against a set of *columns*. On one
device rows and columns are the same batch; over many devices the rows are the local shard and the
columns the gathered global batch, so the loss does not depend on how the batch is spread.
"""

import jax
import jax.numpy as jnp
import optax

# Features shorter than this are treated as if they had this length: the cosine of a zero vector is
# 0 and its gradient is finite.
MIN_NORM = 1e-6


def similarity(
  rows: jax.Array,
  columns: jax.Array,
  same: jax.Array,
  weights: jax.Array,
  tau: float,
) -> jax.Array:
  """Similarity term of the MI-reduction loss, one value per row (nats).

  `-log( sum_{j: y_j = y_i} w_j exp(cos(z_i, z_j) / tau) / sum_j w_j exp(cos(z_i, z_j) / tau) )`,
  with the self-pair in both sums (Zhu et al., ICLR 2026, L_sim).

  Args:
    rows: features z_i, `[rows, features]`.
    columns: features z_j, `[columns, features]`.
    same: whether y_i = y_j, bool `[rows, columns]`.
    weights: w_j, 0 for a padding column, `[columns]`.
    tau: temperature.

  Returns:
    `[rows]`; 0 for a row whose class has no column of positive weight.
  """
  logits = jnp.dot(_unit(rows), _unit(columns).T, precision="highest") / tau
  logits += jnp.log(weights)[None, :]
  positives = jnp.where(same, logits, -jnp.inf)
  has_positive = jnp.any(same & (weights > 0)[None, :], axis=1)
  # Rows without a positive get harmless logits, so that neither value nor gradient is NaN.
  positives = jnp.where(has_positive[:, None], positives, 0.0)
  logits = jnp.where(has_positive[:, None], logits, 0.0)
  loss = jax.nn.logsumexp(logits, axis=1) - jax.nn.logsumexp(positives, axis=1)
  return jnp.where(has_positive, loss, 0.0)


def distance(
  rows: jax.Array,
  columns: jax.Array,
  same: jax.Array,
  same_columns: jax.Array,
  weights: jax.Array,
) -> jax.Array:
  """Distance term of the MI-reduction loss, one value per row.

  `log( 1 + (1/d) sum_{j: y_j = y_i} w_j ||z_i - z_j||_2 )` with d the number of features (L_dist).

  Distances come from inner products. They only matter inside a class, so both sides are first
  shifted by their class mean: distances stay the same, and what the subtraction cancels is small.

  Args:
    rows: features z_i, `[rows, d]`.
    columns: features z_j, `[columns, d]`.
    same: whether y_i = y_j, bool `[rows, columns]`.
    same_columns: whether y_j = y_k, bool `[columns, columns]`.
    weights: w_j, 0 for a padding column, `[columns]`.

  Returns:
    `[rows]`.
  """
  fixed = jax.lax.stop_gradient(columns)
  rows = rows - _class_means(same, weights, fixed)
  columns = columns - _class_means(same_columns, weights, fixed)
  squared = (
    jnp.sum(rows**2, axis=1)[:, None]
    + jnp.sum(columns**2, axis=1)[None, :]
    - 2 * jnp.dot(rows, columns.T, precision="highest")
  )
  pairs = jnp.where(same, weights[None, :] * _safe_sqrt(squared), 0.0)
  return jnp.log1p(jnp.sum(pairs, axis=1) / rows.shape[1])


def mi_reduction(
  rows: jax.Array,
  row_labels: jax.Array,
  columns: jax.Array,
  column_labels: jax.Array,
  weights: jax.Array,
  *,
  tau: float,
  zeta: float,
  similarity_weight: float = 1.0,
) -> jax.Array:
  """The MI-reduction loss `L_sim + zeta L_dist`, one value per row.

  A term of weight 0 is not computed.

  Args:
    rows: poisoned features, `[rows, features]`.
    row_labels: `[rows]`.
    columns: poisoned features of the whole batch, `[columns, features]`.
    column_labels: `[columns]`.
    weights: of the columns; 0 for padding, `[columns]`.
    tau: temperature of the similarity term.
    zeta: weight of the distance term.
    similarity_weight: weight of the similarity term (1 in the paper).

  Returns:
    `[rows]`.
  """
  same = row_labels[:, None] == column_labels[None, :]
  loss = jnp.zeros(rows.shape[:1], rows.dtype)
  if similarity_weight:
    loss += similarity_weight * similarity(rows, columns, same, weights, tau)
  if zeta:
    same_columns = column_labels[:, None] == column_labels[None, :]
    loss += zeta * distance(rows, columns, same, same_columns, weights)
  return loss


def class_balance(labels: jax.Array, valid: jax.Array) -> jax.Array:
  """Weights that let every class of a batch count the same and average to 1 over valid entries.

  Args:
    labels: `[batch]`.
    valid: bool `[batch]`; padding gets weight 0.

  Returns:
    `[batch]`, proportional to `1 / (members of the entry's class)`.
  """
  members = jnp.sum((labels[:, None] == labels[None, :]) & valid[None, :], axis=1)
  weights = jnp.where(valid, 1.0 / jnp.maximum(members, 1), 0.0)
  return weights * jnp.sum(valid) / jnp.maximum(jnp.sum(weights), 1e-12)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax cross-entropy (nats) of `[batch, classes]` against `[batch]`, one value per row."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _unit(features: jax.Array) -> jax.Array:
  squared = jnp.sum(features**2, axis=1, keepdims=True)
  return features * jax.lax.rsqrt(jnp.maximum(squared, MIN_NORM**2))


def _class_means(same: jax.Array, weights: jax.Array, features: jax.Array) -> jax.Array:
  members = same * (weights > 0)[None, :].astype(features.dtype)
  counts = jnp.maximum(jnp.sum(members, axis=1, keepdims=True), 1.0)
  return jnp.dot(members, features, precision="highest") / counts


def _safe_sqrt(squared: jax.Array) -> jax.Array:
  """Square root whose gradient at 0 is 0, not NaN (self-pairs, equal features)."""
  positive = squared > 1e-12
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
