"""Provides one interface for images in memory and for images that are read from files.

`Images` holds an array. `LazyImages` reads images whenever they are indexed, for datasets that do
not fit into memory. It reads every image once at the start, to check and to fingerprint it, and
again each time the image is put on a device. Processes share the first reading and read only their
own rows later.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from miue_jax.machine import progress, sharding
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError

BLOCK = 1024  # images that are processed at the same time
_SCAN_BYTES = 2**25  # of decoded images that a scan holds at the same time
_SHA256_BYTES = 32

# Maps indices int64 `[n]` to images uint8 `[n, H, W, C]`.
Read = Callable[[np.ndarray], np.ndarray]

# Maps indices int64 `[n]` and their images uint8 `[n, H, W, C]` to other images of the same shape.
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]

Index = int | slice | npt.NDArray[np.integer]


class Images:
  """Provides images `[N, H, W, C]`, indexed along their first axis; this class holds an array.

  Attributes:
    in_memory: Whether the images are held in memory. Only then `np.asarray` returns all of them.
  """

  in_memory = True

  def __init__(self, array: npt.ArrayLike):
    self._array = np.asarray(array)

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """Returns the shape `(N, H, W, C)`."""
    return self._array.shape

  @property
  def dtype(self) -> np.dtype:
    """Returns the type of the values, uint8."""
    return self._array.dtype

  @property
  def digests(self) -> np.ndarray:
    """Returns the digest (sha256) of every image, uint8 `[N, 32]`."""
    return _digests(self._array)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: Index) -> np.ndarray:
    """Returns the images of an index along the first axis."""
    return self._array[index]

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.array(self._array, dtype=dtype, copy=copy)

  def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all images in order, as indices int64 `[n]` and images `[n, H, W, C]`."""
    for start in range(0, len(self), BLOCK):
      ids = np.arange(start, min(start + BLOCK, len(self)))
      yield ids, self[start : start + BLOCK]

  def take(self, chosen: np.ndarray) -> "Images":
    """Returns the images with the indices `chosen`, in this order."""
    return Images(self._array[chosen])

  def map(self, change: Change) -> "Images":
    """Returns the images that `change` makes of these, computed in blocks."""
    changed = np.empty_like(self._array)
    for ids, block in self.blocks():
      changed[ids] = _changed(change, ids, block)
    return Images(changed)

  def loaded(self) -> "Images":
    """Returns the same images in memory."""
    return self

  def scanned(self) -> "Images":
    """Returns images whose later readings are compared with the first one."""
    return self


def _changed(change: Change, ids: np.ndarray, block: np.ndarray) -> np.ndarray:
  """Returns the changed images of a block, after a check that no conversion would alter them."""
  result = change(ids, block)
  if result.dtype != block.dtype or result.shape != block.shape:
    raise UserError(
      f"Changed images are {result.dtype} of shape {list(result.shape)}: return {block.dtype} in "
      f"0..255 of shape {list(block.shape)}."
    )
  return result


class LazyImages(Images):
  """Provides images that are read whenever they are indexed.

  `map` and `take` read nothing; the changes are made when the result is indexed.
  """

  in_memory = False
  dtype = np.dtype(np.uint8)

  def __init__(
    self,
    read: Read,
    count: int,
    name: str,
    *,
    image_shape: tuple[int, int, int] | None = None,
    digests: np.ndarray | None = None,
  ):
    """Initialises the images.

    Args:
      read: Reads images.
      count: Number of images.
      name: Name of the dataset in error messages.
      image_shape: `(H, W, C)`; None reads the first image when the shape is asked for.
      digests: Expected sha256 of every image, uint8 `[N, 32]`; None if it is not known.
    """
    self._read, self._count, self._name = read, count, name
    self._image_shape, self._digests = image_shape, digests

  @functools.cached_property
  def shape(self) -> tuple[int, int, int, int]:
    """Returns the shape `(N, H, W, C)`."""
    first = np.arange(min(1, self._count))
    image: tuple[int, int, int] = self._image_shape or self._read(first).shape[1:]
    return (self._count, *image)

  @property
  def digests(self) -> np.ndarray:
    """Returns the digest (sha256) of every image, uint8 `[N, 32]`."""
    return self.scanned().digests if self._digests is None else self._digests

  def __len__(self) -> int:
    return self._count

  def __getitem__(self, index: Index) -> np.ndarray:
    """Reads the images of an index along the first axis.

    Raises:
      UserError: An image has changed or cannot be read any more.
    """
    ids = np.atleast_1d(np.arange(len(self))[index])
    images = self._read(ids)
    if self._digests is not None and not (
      images.shape[1:] == self.shape[1:] and np.array_equal(_digests(images), self._digests[ids])
    ):
      raise UserError(
        f"Images of {self._name} changed since this run began to read them: put them back and "
        "start again."
      )
    return images[0] if isinstance(index, int | np.integer) else images

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """Refuses to read everything at once, because the images may not fit into memory."""
    raise TypeError(f"{self._name} is read from its files: index its images in blocks")

  def take(self, chosen: np.ndarray) -> "LazyImages":
    """Returns the images with the indices `chosen`, in this order."""
    return self._derived(lambda ids: self[chosen[ids]], len(chosen))

  def map(self, change: Change) -> "LazyImages":
    """Returns the images that `change` makes of these when they are read."""
    return self._derived(lambda ids: _changed(change, ids, self[ids]), len(self))

  def _derived(self, read: Read, count: int) -> "LazyImages":
    return LazyImages(read, count, self._name, image_shape=self._image_shape)

  def loaded(self) -> Images:
    """Returns the same images in memory."""
    return Images(self[:])

  def scanned(self) -> "LazyImages":
    """Reads every image once and returns images whose later readings are compared with it.

    Collective: processes share the work, and all of them must call this.

    Raises:
      UserError: An image cannot be read, or its size differs from that of the first image.
    """
    shape = self.shape[1:]
    size = max(1, _SCAN_BYTES // max(1, math.prod(shape)))

    def read(ids: np.ndarray) -> np.ndarray:
      images = self[ids]
      allocator.release()  # Memory is short, otherwise the images would be held.
      return images

    def digest(ids: np.ndarray) -> np.ndarray:
      result = np.empty((len(ids), _SHA256_BYTES), np.uint8)

      def blocks() -> Iterator[int]:
        for start in range(0, len(ids), size):
          block = ids[start : start + size]
          # The first image starts every block, so that an error names the image that differs in
          # size from it.
          result[start : start + size] = _digests(read(np.concatenate([[0], block]))[1:])
          yield len(block)

      progress.count("decoded", blocks(), len(ids))
      return result

    digests = sharding.by_process(len(self), digest)
    return LazyImages(read, len(self), self._name, image_shape=shape, digests=digests)


def _digests(images: np.ndarray) -> np.ndarray:
  whole = b"".join(hashlib.sha256(image.tobytes()).digest() for image in images)
  return np.frombuffer(whole, np.uint8).reshape(-1, _SHA256_BYTES)
