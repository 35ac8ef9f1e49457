"""Tests that the PyTorch side computes what ours computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import objectives
from miue_jax.methods import miue
from miue_jax.settings.config import Model

torch = pytest.importorskip("torch", reason="the peer is PyTorch")

from benchmarks import torch_peer, torch_steps  # noqa: E402, needs PyTorch


@pytest.fixture(autouse=True)
def one_thread():
  """Runs PyTorch on one thread, because networks this small gain nothing from more."""
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(threads)


@pytest.mark.parametrize(
  "settings",
  [
    {"tau": 0.1, "zeta": 0.0, "similarity_weight": 1.0},
    {"tau": 0.5, "zeta": 0.7, "similarity_weight": 0.3},
  ],
  ids=str,
)
def test_the_peer_minimises_our_loss(settings):
  rng = np.random.default_rng(0)
  features = rng.standard_normal((24, 6)).astype(np.float32)
  labels = rng.integers(0, 3, 24)
  z = torch.tensor(features, requires_grad=True)
  theirs = torch_steps.mi_reduction(z, torch.tensor(labels), **settings)
  theirs.backward()

  def ours(z):
    return objectives.mi_reduction(z, labels, z, labels, jnp.ones(24), **settings).mean()

  value, gradient = jax.jit(jax.value_and_grad(ours))(features)
  assert theirs.item() == pytest.approx(float(value), rel=1e-5)
  # Ours takes the distance to the gathered batch, whose rows are the same variable here.
  np.testing.assert_allclose(z.grad.numpy(), gradient, atol=1e-5)


def test_the_network_of_the_peer_is_resnet18():
  network = torch_steps.ResNet18(64, 3, 10)
  assert sum(p.numel() for p in network.parameters()) == 11_173_962
  features, logits = network(torch.zeros(2, 3, 32, 32))
  assert (features.shape, logits.shape) == ((2, 512), (2, 10))


@pytest.mark.parametrize("mode", ["eager", "channels_last"])
@pytest.mark.parametrize("stage", torch_peer.STAGES)
def test_a_peer_takes_steps(sizes, stage, mode):
  # With 4 channels PyTorch 2.13 corrupts its memory on CPUs without AVX-512 (channels last).
  peer = torch_steps.Peer(stage, miue.Settings(model=Model(width=8)), sizes, 8, mode)
  assert peer.batch == 8
  layout = torch.channels_last if mode == "channels_last" else torch.contiguous_format
  assert peer.deltas.is_contiguous(memory_format=layout)
  assert peer.seconds(3) > 0
  assert peer.measure(0.0) == peer.step_seconds > 0


def test_a_peer_moves_delta_within_the_budget(sizes):
  peer = torch_steps.Peer("delta", miue.Settings(model=Model(width=4)), sizes, 8, "eager")
  before = peer.deltas.clone()
  assert 0 < before.abs().max() <= 0.2 / 255 + 1e-6  # each of the two batches moved once
  peer.seconds(100)
  assert peer.deltas.abs().max() <= 8 / 255 + 1e-6
  assert (peer.deltas - before).abs().max() > 0.2 / 255
