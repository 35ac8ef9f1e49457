"""Images that are read whenever they are indexed, for data sets that no host's memory holds.

Every image is read once at the start, to check it and to fingerprint the data set, and again each
time it is put on a device. Processes share the first reading and read only their own rows in the
second.
"""

import hashlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from miue_jax.data import pixels
from miue_jax.machine.cpu import allocator
from miue_jax.settings.errors import UserError

_SHA256_BYTES = 32
_BLOCK_BYTES = 2**25  # of decoded images that `scan` holds at a time

# Maps int64 indices `[n]` to uint8 images `[n, height, width, channel]`.
Read = Callable[[np.ndarray], np.ndarray]


class LazyImages:
  """Reads like a uint8 array `[N, H, W, C]` along its first axis, but holds no pixels.

  Attributes:
    shape: `(N, H, W, C)`.
    digests: sha256 of every image as uint8 `[N, 32]`, which each reading is held to; None where
      the images are derived from others.
  """

  dtype = np.dtype(np.uint8)
  ndim = 4

  def __init__(
    self, read: Read, shape: tuple[int, ...], name: str, digests: np.ndarray | None = None
  ):
    """Takes what `read` reads from the data set `name`."""
    self.shape, self.digests = shape, digests
    self._read, self._name = read, name

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: slice | np.ndarray | int) -> np.ndarray:
    """Reads images, in the order of `index`.

    Raises:
      UserError: an image is no longer what it was, or cannot be read any more.
    """
    ids = np.atleast_1d(np.arange(len(self))[index])
    images = self._read(ids)
    if self.digests is not None and not (
      images.shape[1:] == self.shape[1:] and np.array_equal(digests(images), self.digests[ids])
    ):
      raise UserError(
        f"Images of {self._name} changed since this run began to read them: put them back and "
        "start again."
      )
    return images[0] if np.ndim(index) == 0 and not isinstance(index, slice) else images

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    """Refuses: whoever asks for everything at once would need the memory that there is not."""
    raise TypeError(f"{self._name} is read from its files: index its images in blocks")

  def map(self, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> "LazyImages":
    """Returns images that `change(ids, images)` turns into others of the same shape, when read."""
    return LazyImages(lambda ids: change(ids, self[ids]), self.shape, self._name)

  def take(self, chosen: np.ndarray) -> "LazyImages":
    """Returns the images with these indices, in this order."""
    return LazyImages(lambda ids: self[chosen[ids]], (len(chosen), *self.shape[1:]), self._name)


def scan(read: Read, count: int, name: str) -> LazyImages:
  """Reads every image once, shared among the processes, to learn their shape and digests.

  Collective, as `by_process` is.

  Raises:
    UserError: an image cannot be read, or has another size than the first one.
  """

  def frugal(ids: np.ndarray) -> np.ndarray:
    images = read(ids)
    allocator.release()  # there is little, or the images would be held
    return images

  shape = frugal(np.zeros(1, np.int64)).shape[1:]
  size = max(1, _BLOCK_BYTES // int(np.prod(shape)))

  def digest(ids: np.ndarray) -> np.ndarray:
    result = np.empty((len(ids), _SHA256_BYTES), np.uint8)

    def blocks() -> Iterator[int]:
      for start in range(0, len(ids), size):
        block = ids[start : start + size]
        # The very first image leads every block: what differs from it in size is then named.
        result[start : start + size] = digests(frugal(np.concatenate([[0], block]))[1:])
        yield len(block)

    pixels.report(blocks(), len(ids))
    return result

  return LazyImages(frugal, (count, *shape), name, by_process(count, digest))


def digests(images: np.ndarray | LazyImages) -> np.ndarray:
  """The sha256 of every image `[N, H, W, C]`, uint8 `[N, 32]`."""
  if isinstance(images, LazyImages):
    return images.digests
  whole = b"".join(hashlib.sha256(np.ascontiguousarray(image)).digest() for image in images)
  return np.frombuffer(whole, np.uint8).reshape(-1, _SHA256_BYTES)


def by_process(count: int, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
  """Computes one row for each of `count` examples, every process its share, for all processes.

  Collective: all processes must come here.

  Args:
    count: of examples.
    compute: maps their ids `[n]`, perhaps none, to rows `[n, ...]` of at most 32 bits an item.

  Returns:
    `[count, ...]`, the same on every process.
  """
  processes, process = jax.process_count(), jax.process_index()
  if processes == 1:
    return compute(np.arange(count))
  bounds = np.arange(processes + 1) * count // processes
  rows = compute(np.arange(bounds[process], bounds[process + 1]))
  # A gather needs one shape everywhere; shares differ by one row at most.
  spare = np.zeros((-(-count // processes) - len(rows), *rows.shape[1:]), rows.dtype)
  shares = multihost_utils.process_allgather(np.concatenate([rows, spare]))
  return np.concatenate([share[:n] for share, n in zip(shares, np.diff(bounds), strict=True)])
