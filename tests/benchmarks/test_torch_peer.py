"""Tests the process in which PyTorch runs; test_steps.py has the configs without a peer."""

import multiprocessing

import pytest

from benchmarks import torch_peer
from miue_jax.machine import room
from miue_jax.methods import miue
from miue_jax.settings.config import Model


def test_a_peer_is_timed_in_a_separate_process(sizes):
  pytest.importorskip("torch", reason="the peer is PyTorch")
  method = miue.Settings(model=Model(width=4))
  with torch_peer.separate("delta", method, sizes, 8, "eager") as measure:
    seconds, resident = measure(0.0)
    assert seconds > 0
    assert 5e7 < resident < room.limit()
    (process,) = multiprocessing.active_children()
  assert not process.is_alive()
