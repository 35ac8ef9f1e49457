"""Provides augmentations that mix, cut, blur or add noise, with one random key per image.

All take random keys `[batch]`, float images `[batch, height, width, channel]` in [0, 1] and soft
labels, as `hooks.Augment` says, and return images of the same shape with their soft labels.

Images are mixed with those of the next lane of the global batch. Lanes are random groups of
examples that are shuffled inside in every epoch, so partners are random. One image moves from each
device to its neighbour, however large the batch is, and results do not depend on the number of
devices. Outside `jax.shard_map` the given batch is the global one.
"""

import jax
import jax.numpy as jnp

from miue_jax.machine.meshes import AXIS
from miue_jax.transforms.hooks import Targets, assert_batch

NOISE = 8 / 255  # standard deviation of `noise`, in [0, 1] pixel units
BLUR = (0.1, 2.0)  # range of the standard deviation of `blur`, in pixels


def cutout(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Sets a box of half the height and width around a random pixel to zero.

  The border cuts the box off. At 32 pixels the box is 16x16 (DeVries and Taylor, "Improved
  Regularization of CNNs with Cutout", 2017).
  """
  assert_batch(keys, images)
  half = jnp.full((len(images), 2), 1 / 4)
  return jnp.where(_boxes(keys, half, images.shape), 0.0, images), targets


def cutmix(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Pastes a box of the next image into every image (Yun et al., "CutMix", ICCV 2019).

  The box has a share 1 - lambda of the area before the border cuts it off, with lambda ~ U(0, 1).
  Labels are mixed in proportion to the pixels that remain.
  """
  assert_batch(keys, images)
  share_keys, box_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  half = jnp.sqrt(1 - jax.vmap(jax.random.uniform)(share_keys)) / 2
  boxes = _boxes(box_keys, jnp.stack([half, half], axis=1), images.shape)
  own = 1 - jnp.mean(boxes.astype(jnp.float32), axis=(1, 2, 3))
  return jnp.where(boxes, _next_lane(images), images), _mixed(targets, own)


def mixup(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Averages every image with the next one, with weight lambda ~ U(0, 1).

  Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

  Args:
    keys: Random keys `[batch]`.
    images: Float images `[batch, height, width, channel]` in [0, 1].
    targets: Soft labels of the images, k classes each.

  Returns:
    Images of the same shape and their targets, 2k classes each.

  Example:
    >>> import jax
    >>> import miue_jax.transforms as transforms
    >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    >>> targets = transforms.Targets.hard(jax.numpy.array([3, 7]))
    >>> mixed, targets = transforms.mixup(jax.random.split(jax.random.key(1), 2), images, targets)
    >>> targets.labels.tolist()
    [[3, 7], [7, 3]]
  """
  assert_batch(keys, images)
  own = jax.vmap(jax.random.uniform)(keys)
  weight = own[:, None, None, None]
  return weight * images + (1 - weight) * _next_lane(images), _mixed(targets, own)


def blur(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Applies a Gaussian filter of 3x3 pixels with sigma ~ U(0.1, 2), mirrored at the border."""
  assert_batch(keys, images)
  low, high = BLUR
  sigma = jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(keys)
  side = jnp.exp(-0.5 / sigma**2)
  side = (side / (1 + 2 * side))[:, None, None, None]
  for axis in (1, 2):
    padding = [(0, 0)] * 4
    padding[axis] = (1, 1)
    wide = jnp.pad(images, padding, mode="reflect")
    size = images.shape[axis]
    before, here, after = (
      jax.lax.slice_in_dim(wide, start, start + size, axis=axis) for start in range(3)
    )
    images = side * (before + after) + (1 - 2 * side) * here
  return images, targets


def noise(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Adds Gaussian noise with a standard deviation of 8/255 and clips the result to [0, 1]."""
  assert_batch(keys, images)
  drawn = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
  return jnp.clip(images + NOISE * drawn, 0.0, 1.0), targets


def _next_lane(x: jax.Array) -> jax.Array:
  """Moves the rows `[local batch, ...]` of the global batch up by one, the first to the end."""
  try:
    size = jax.lax.axis_size(AXIS)
  except NameError:  # outside shard_map
    return jnp.concatenate([x[1:], x[:1]])
  first = jax.lax.ppermute(x[:1], AXIS, [(i, (i - 1) % size) for i in range(size)])
  return jnp.concatenate([x[1:], first])


def _mixed(targets: Targets, own: jax.Array) -> Targets:
  """Mixes targets with those of the next lane; `own` `[batch]` are the weights of the former."""
  other = jax.tree.map(_next_lane, targets)
  return Targets(
    jnp.concatenate([targets.labels, other.labels], axis=1),
    jnp.concatenate([own[:, None] * targets.weights, (1 - own)[:, None] * other.weights], axis=1),
  )


def _boxes(keys: jax.Array, half: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns masks of boxes around random pixels; `half` is half their relative side."""
  sides = jnp.array(shape[1:3])
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, sides))(keys)
  reach = (half * sides[None, :]).astype(jnp.int32)
  inside = []
  for axis in range(2):
    distance = jnp.arange(shape[1 + axis])[None, :] - centres[:, axis : axis + 1]
    limit = reach[:, axis : axis + 1]
    inside.append((-limit <= distance) & (distance < limit))
  return (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
