"""Vision transformers: the plain one, and the one for small data sets.

ViT: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; ViT-S has the sizes of Touvron
et al., "Training data-efficient image transformers", ICML 2021. SL-ViT: Lee et al., "Vision
Transformer for Small-Size Datasets", arXiv 2112.13492, 2021, which adds shifted patch tokenisation
and locality self-attention.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax.machine import meshes, prng
from miue_jax.models import layers
from miue_jax.settings import config

_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())
_tiny_normal = nn.initializers.normal(0.02)


class Dropout(nn.Module):
  """Sets values to zero with probability `rate` and scales the others by 1 / (1 - rate).

  Each row of the global batch has its own key: masks do not depend on the number of devices. In
  training the call must be inside a `jax.shard_map` over the mesh axis "data", with a stream
  "dropout" whose key is the same on all devices.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """`[batch, ...]` -> the same shape; without `train` nothing changes."""
    if not train or self.rate == 0:
      return x
    rows = jax.lax.axis_index(meshes.AXIS) * len(x) + jnp.arange(len(x))
    keys = prng.example_keys(self.make_rng("dropout"), rows)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


class Attention(nn.Module):
  """Self-attention of several heads, with a linear layer after them.

  Attributes:
    heads: number of heads.
    size: of each head.
    local: locality self-attention (Lee et al., section 3.3): each head learns the factor of its
      scores, which starts at 1 / sqrt(size), and no token attends to itself. Without: the factor is
      constant, every token attends to all, and queries, keys and values have biases.
    dtype: of the computation; scores and softmax are float32.
  """

  heads: int
  size: int
  local: bool
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """`[batch, tokens, dim]` -> the same shape."""
    batch, tokens, dim = x.shape
    qkv = _dense(3 * self.heads * self.size, use_bias=not self.local, dtype=self.dtype)(x)
    query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, self.size), 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    if self.local:
      initial = nn.initializers.constant(self.size**-0.5)
      scores *= self.param("scale", initial, (self.heads,)).reshape(1, -1, 1, 1)
      scores = jnp.where(jnp.eye(tokens, dtype=bool)[None, None], -jnp.inf, scores)
    else:
      scores *= self.size**-0.5
    weights = nn.softmax(scores).astype(value.dtype)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, tokens, -1)
    return _dense(dim, dtype=self.dtype)(y)


class ViT(nn.Module):
  """Patches to tokens, blocks of attention and perceptron, the class token to the classifier.

  Layers are normalised before each branch and at the end; GELU; dropout after the positions, after
  each attention and after both layers of each perceptron. Features are the class token.

  Attributes:
    model: `width` is the size of a head, and of all else in proportion; `stem` chooses the patch:
      "small" 4x4 pixels (for images of about 32), "imagenet" 16x16.
    num_classes: number of logits.
    depth: number of blocks.
    heads: number of heads.
    dim: size of a token, in heads.
    hidden: size of the perceptron's hidden layer, in heads.
    small_data: Lee et al.'s tokens and attention.
    dropout: probability.
  """

  model: config.Model
  num_classes: int
  depth: int
  heads: int
  dim: int
  hidden: int
  small_data: bool
  dropout: float

  @property
  def patch(self) -> int:
    """Height and width of a patch in pixels; it must divide those of an image."""
    return 4 if self.model.stem == "small" else 16

  @property
  def min_side(self) -> int:
    """Smallest height and width of an image, in pixels."""
    return self.patch

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
    """Images `[batch, height, width, channel]` in [0, 1] -> float32 (features, logits)."""
    width, dtype = self.model.width, self.model.dtype
    dim = self.dim * width
    x = layers.normalise(images, self.model.normalise)
    if self.small_data:
      x = nn.LayerNorm(dtype=dtype)(patches(_with_shifted(x, self.patch // 2), self.patch))
    else:
      x = patches(x, self.patch)
    x = _dense(dim, dtype=dtype)(x)
    first = self.param("class_token", nn.initializers.zeros, (1, 1, dim)).astype(x.dtype)
    x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, dim)), x], axis=1)
    x += self.param("positions", _tiny_normal, (1, *x.shape[1:])).astype(x.dtype)
    x = Dropout(self.dropout)(x, train)
    for _ in range(self.depth):
      y = nn.LayerNorm(dtype=dtype)(x)
      y = Attention(self.heads, width, self.small_data, dtype)(y)
      x += Dropout(self.dropout)(y, train)
      y = _dense(self.hidden * width, dtype=dtype)(nn.LayerNorm(dtype=dtype)(x))
      # By tanh, as ViT's authors do; jax 0.12 cannot differentiate erf inside `shard_map`.
      y = Dropout(self.dropout)(nn.gelu(y, approximate=True), train)
      x += Dropout(self.dropout)(_dense(dim, dtype=dtype)(y), train)
    features = nn.LayerNorm(dtype=jnp.float32)(x[:, 0])
    return features, layers.classifier(self.num_classes)(features)


def patches(images: jax.Array, side: int) -> jax.Array:
  """`[batch, height, width, channel]` -> `[batch, patches, side * side * channel]`, row by row."""
  batch, height, width, channels = images.shape
  x = images.reshape(batch, height // side, side, width // side, side, channels)
  return jnp.swapaxes(x, 2, 3).reshape(batch, -1, side * side * channels)


def _with_shifted(images: jax.Array, pixels: int) -> jax.Array:
  """Appends four copies, moved along the diagonals, as channels (Lee et al., section 3.2).

  What moves in from outside is zero: `[B, H, W, C]` -> `[B, H, W, 5 C]`.
  """
  _, height, width, _ = images.shape
  padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
  moved = [
    padded[:, top : top + height, left : left + width]
    for top in (2 * pixels, 0)
    for left in (2 * pixels, 0)
  ]
  return jnp.concatenate([images, *moved], axis=-1)


sl_vit = functools.partial(ViT, depth=12, heads=12, dim=8, hidden=12, small_data=True, dropout=0.1)
vit_s = functools.partial(ViT, depth=12, heads=6, dim=6, hidden=24, small_data=False, dropout=0.0)
