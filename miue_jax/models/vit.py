"""Provides vision transformers: the plain one, and the one for small datasets.

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
from miue_jax.models.network import Network

_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())
_tiny_normal = nn.initializers.normal(0.02)


class Dropout(nn.Module):
  """Sets values to zero with probability `rate` and scales the others by 1 / (1 - rate).

  Each row of the global batch has its own key, so masks do not depend on the number of devices. In
  training the call must be inside a `jax.shard_map` over the mesh axis "data", with a random stream
  "dropout" whose key is the same on all devices.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[batch, ...]` to the same shape; without `train` it returns `x`."""
    if not train or self.rate == 0:
      return x
    rows = jax.lax.axis_index(meshes.AXIS) * len(x) + jnp.arange(len(x))
    keys = prng.example_keys(self.make_rng("dropout"), rows)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


class Attention(nn.Module):
  """Applies self-attention with several heads, and a linear layer.

  Attributes:
    heads: Number of heads.
    size: Size of each head.
    local: Whether to use locality self-attention (Lee et al., section 3.3): each head learns the
      factor of its scores, which starts at 1 / sqrt(size), and no token attends to itself.
      Otherwise the factor is constant, every token attends to all, and queries, keys and values
      have biases.
    dtype: Type of the computation; scores and softmax are float32.
  """

  heads: int
  size: int
  local: bool
  dtype: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[batch, tokens, dim]` to the same shape."""
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


class ViT(Network):
  """Turns patches into tokens, and applies blocks of attention and perceptron.

  Layer norm precedes each branch and the classifier. The activation is GELU. Dropout follows the
  positions, each attention and both layers of each perceptron. Features are the class token.
  `model.width` is the size of a head. The stem "small" has patches of 4x4 pixels (for images of
  about 32), "imagenet" of 16x16.

  Attributes:
    depth: Number of blocks.
    heads: Number of heads.
    dim: Size of a token, as a multiple of the width.
    hidden: Size of the perceptron's hidden layer, as a multiple of the width.
    small_data: Whether to use the tokens and the attention of Lee et al.
    dropout: Probability of dropout.
  """

  depth: int
  heads: int
  dim: int
  hidden: int
  small_data: bool
  dropout: float

  sides = (4, 16)

  @property
  def patch(self) -> int:
    """Returns the height and width of a patch in pixels; it must divide those of an image."""
    return self.min_side

  def backbone(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps normalised images `[batch, height, width, channel]` to features `[batch, d]`."""
    width, dtype = self.model.width, self.model.dtype
    dim = self.dim * width
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
      # The tanh form, as in the authors' code; jax 0.12 cannot differentiate erf in `shard_map`.
      y = Dropout(self.dropout)(nn.gelu(y, approximate=True), train)
      x += Dropout(self.dropout)(_dense(dim, dtype=dtype)(y), train)
    return nn.LayerNorm(dtype=jnp.float32)(x[:, 0])


def patches(images: jax.Array, side: int) -> jax.Array:
  """Cuts `[batch, H, W, C]` into `[batch, patches, side * side * C]`, row by row."""
  batch, height, width, channels = images.shape
  x = images.reshape(batch, height // side, side, width // side, side, channels)
  return jnp.swapaxes(x, 2, 3).reshape(batch, -1, side * side * channels)


def _with_shifted(images: jax.Array, pixels: int) -> jax.Array:
  """Appends four copies that are shifted along the diagonals as channels (Lee et al., section 3.2).

  Pixels from outside are zero: `[B, H, W, C]` -> `[B, H, W, 5 C]`.
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
