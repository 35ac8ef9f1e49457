"""Augmentations beside flips and crops, on the device and one key per image.

Images are mixed with those of the next lane of the global batch. Lanes are random groups of
examples, shuffled inside in every epoch, so partners are random; one image crosses from each device
to its neighbour, however large the batch, and results do not depend on the number of devices.
"""

import jax
import jax.numpy as jnp

from miue_jax.defences.defence import Defence
from miue_jax.machine.meshes import AXIS
from miue_jax.transforms import hooks as hooks_lib
from miue_jax.transforms.hooks import Targets

NOISE = 8 / 255  # standard deviation
BLUR = (0.1, 2.0)  # pixels, range of the standard deviation


def augmentation(name: str, augment: hooks_lib.Augment) -> Defence:
  """The defence that augments every batch."""
  return Defence(name, hooks=hooks_lib.Hooks(augment=augment))


def cutout(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """One black hole of half the height and width around a random pixel, cut off at the border.

  16x16 at 32 pixels (DeVries and Taylor, "Improved Regularization of CNNs with Cutout", 2017).
  """
  half = jnp.full((len(images), 2), 1 / 4)
  return jnp.where(_boxes(keys, half, images.shape), 0.0, images), targets


def cutmix(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """A box of another image (Yun et al., "CutMix", ICCV 2019), always, with lambda ~ U(0, 1).

  The box has a share 1 - lambda of the area before the border cuts it off, and labels are mixed in
  proportion to the pixels that remain.
  """
  share_keys, box_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  half = jnp.sqrt(1 - jax.vmap(jax.random.uniform)(share_keys)) / 2
  boxes = _boxes(box_keys, jnp.stack([half, half], axis=1), images.shape)
  own = 1 - jnp.mean(boxes.astype(jnp.float32), axis=(1, 2, 3))
  return jnp.where(boxes, next_lane(images), images), mixed(targets, own)


def mixup(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """A weighted mean of two images (Zhang et al., "mixup", ICLR 2018), lambda ~ U(0, 1), always."""
  own = jax.vmap(jax.random.uniform)(keys)
  weight = own[:, None, None, None]
  return weight * images + (1 - weight) * next_lane(images), mixed(targets, own)


def blur(keys: jax.Array, images: jax.Array, targets: Targets) -> tuple[jax.Array, Targets]:
  """Gaussian filter of 3x3 pixels, sigma ~ U(0.1, 2), mirrored at the border."""
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
  """Gaussian noise of 8 levels in every value, clipped to what an image can hold."""
  drawn = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
  return jnp.clip(images + NOISE * drawn, 0.0, 1.0), targets


def next_lane(x: jax.Array) -> jax.Array:
  """Rows of the global batch moved up by one, the first one last: `[local batch, ...]`."""
  size = jax.lax.axis_size(AXIS)
  first = jax.lax.ppermute(x[:1], AXIS, [(i, (i - 1) % size) for i in range(size)])
  return jnp.concatenate([x[1:], first])


def mixed(targets: Targets, own: jax.Array) -> Targets:
  """Targets of rows mixed with the next lane's, the row's own with weight `own`, `[batch]`."""
  other = jax.tree.map(next_lane, targets)
  return Targets(
    jnp.concatenate([targets.labels, other.labels], axis=1),
    jnp.concatenate([own[:, None] * targets.weights, (1 - own)[:, None] * other.weights], axis=1),
  )


def _boxes(keys: jax.Array, half: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Boxes around random pixels, bool `[batch, H, W, 1]`; `half` `[batch, 2]` is of the image."""
  sides = jnp.array(shape[1:3])
  centres = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, sides))(keys)
  reach = (half * sides[None, :]).astype(jnp.int32)
  inside = []
  for axis in range(2):
    distance = jnp.arange(shape[1 + axis])[None, :] - centres[:, axis : axis + 1]
    limit = reach[:, axis : axis + 1]
    inside.append((-limit <= distance) & (distance < limit))
  return (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
