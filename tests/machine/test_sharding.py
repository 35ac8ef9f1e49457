"""Moves of arrays between the host and the devices."""

import numpy as np

from miue_jax.machine import sharding


def test_shard_spreads_rows_and_replicate_copies(use_devices):
  use_devices(4)
  rows = np.arange(8).reshape(8, 1)
  pieces = sharding.shard({"x": rows})["x"].addressable_shards
  assert [np.ravel(piece.data).tolist() for piece in pieces] == [[0, 1], [2, 3], [4, 5], [6, 7]]
  copies = sharding.replicate(rows).addressable_shards
  assert len(copies) == 4
  assert all((np.asarray(copy.data) == rows).all() for copy in copies)
