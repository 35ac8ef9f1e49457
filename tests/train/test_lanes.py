"""Tests lanes: every example once per pass, on any number of devices, for every batch size."""

import jax
import numpy as np
import pytest

from miue_jax.data.dataset import Split
from miue_jax.data.images import LazyImages
from miue_jax.train import lanes, step

CASES = [  # (examples, batch sizes that share the table)
  (16, (4,)),
  (5, (8,)),
  (37, (8, 12)),
  (61, (16, 4, 8)),
]
READINGS = [(count, sizes, size) for count, sizes in CASES for size in sizes]

shuffle = jax.jit(lanes.shuffle, static_argnums=2)


def batches(layout, size, seed=0):
  """Returns the ids of every batch of one pass as one device reads them, `[batches, size]`."""
  return layout.ids[np.asarray(shuffle(jax.random.key(seed), layout.ids, size)).T]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "sizes", "size"), READINGS)
def test_a_pass_takes_every_example_once_and_pads_only_the_last_batch(count, sizes, size):
  layout = lanes.lay_out(count, sizes, seed=3)
  full = layout.steps(size, partial=False)
  assert (full, layout.steps(size, partial=True)) == (count // size, -(-count // size))
  left_out = set()
  for seed in range(9):
    taken = batches(layout, size, seed)
    assert (taken[:full] != lanes.EMPTY).all()
    everything = taken[: layout.steps(size, partial=True)].ravel()
    assert sorted(everything[everything != lanes.EMPTY]) == list(range(count))
    left_out.add(tuple(sorted(set(range(count)) - set(taken[:full].ravel()))))
  # No example is left out of full batches in every pass.
  assert len(left_out) > 1 or full in (0, count / size)


def test_an_example_keeps_its_lane_and_changes_its_batch():
  layout = lanes.lay_out(64, (8,), seed=0)
  passes = np.array([batches(layout, 8, seed) for seed in range(9)])
  lane = np.array([[np.argwhere(one == i)[0] for i in range(64)] for one in passes])
  assert (lane[:, :, 1] == lane[0, :, 1]).all()
  assert len(np.unique(lane[:, 0, 0])) > 2
  # Batches of one pass mix the dealt order: no key gives the storage order.
  assert not any((one == layout.ids.reshape(8, 8).T).all() for one in passes)


def test_places_in_a_lane_are_equally_likely():
  layout = lanes.lay_out(12, (3,), seed=0)
  keys = jax.random.split(jax.random.key(0), 2000)
  orders = jax.jit(jax.vmap(lambda key: lanes.shuffle(key, layout.ids, 3)))(keys)
  # How often each of the four examples of a lane comes first: chi-squared with 3 degrees of freedom
  # exceeds 16.3 once in a thousand; the lanes are shuffled independently.
  first = np.asarray(orders)[:, :, 0]
  for lane in range(3):
    hits = np.bincount(first[:, lane] - 4 * lane, minlength=4)
    assert ((hits - 500) ** 2 / 500).sum() < 16.3
  agree = np.mean(first[:, 0] == first[:, 1] - 4)
  assert abs(agree - 1 / 4) < 5 * np.sqrt(3 / 16 / 2000)


def test_dealing_depends_on_the_seed():
  first, same, other = (lanes.lay_out(50, (8,), seed).ids for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, same)
  assert (first != other).any()


@pytest.mark.parametrize(
  ("image", "shape"),
  [
    ((28, 28, 1), (784,)),
    ((16, 16, 1), (256,)),
    ((28, 28, 3), (2352,)),
    ((32, 32, 1), (8, 128)),
    ((32, 32, 3), (24, 128)),
    ((224, 224, 3), (1176, 128)),
  ],
)
def test_images_that_fill_tiles_have_their_own(image, shape):
  assert lanes.row_shape(image) == shape


def _fetched(layout, x):
  return layout.fetch(x, np.asarray, x.shape[1:])


@pytest.mark.parametrize(("count", "sizes"), CASES)
def test_fetch_inverts_place(count, sizes, use_devices):
  use_devices(2)
  rng = np.random.default_rng(0)
  split = Split(rng.integers(0, 256, (count, 2, 2, 1), np.uint8), rng.integers(0, 9, count))
  layout = lanes.lay_out(count, sizes, seed=1)
  table = layout.place(split)
  images = _fetched(layout, table.images).reshape(-1, *table.image)
  np.testing.assert_array_equal(images, split.images)
  np.testing.assert_array_equal(_fetched(layout, table.labels), split.labels)
  np.testing.assert_array_equal(_fetched(layout, table.ids), np.arange(count))
  assert (table.images.dtype, table.labels.dtype) == (np.uint8, np.int32)


def test_every_device_reads_its_own_images(use_devices):
  use_devices(4)
  images = np.arange(61, dtype=np.uint8).reshape(61, 1, 1, 1)
  read = []
  recorded = LazyImages(
    lambda ids: read.append(ids) or images[ids], len(images), "x", image_shape=images.shape[1:]
  )
  layout = lanes.lay_out(61, (8, 16), seed=2)
  table = layout.place(Split(recorded, np.zeros(61, np.int64)))
  assert [ids.tolist() for ids in read] == np.maximum(layout.ids, 0).reshape(4, -1).tolist()
  np.testing.assert_array_equal(_fetched(layout, table.images), images.reshape(61, 1))


@pytest.mark.slow
def test_batches_do_not_depend_on_the_number_of_devices(use_devices):
  layout = lanes.lay_out(61, (8, 16), seed=2)
  split = Split(np.arange(61, dtype=np.uint8).reshape(61, 1, 1, 1), np.arange(61))
  size = 8  # two lanes of the layout make one of the batch
  expected = batches(layout, size, seed=7)
  for devices in (1, 2, 4, 8):
    mesh = use_devices(devices)
    table = layout.place(split)
    assert len({piece.device for piece in table.images.addressable_shards}) == devices
    order = step.shuffler(size)(jax.random.key(7), table.ids)
    # Each device reads its rows; the results are joined in the order of devices.
    read = jax.shard_map(
      lambda ids, order: ids[order.T],
      mesh=mesh,
      in_specs=(jax.P("data"), jax.P("data")),
      out_specs=jax.P(None, "data"),
    )
    np.testing.assert_array_equal(jax.jit(read)(table.ids, order), expected)
