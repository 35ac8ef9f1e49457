"""Tests vision transformers against PyTorch and the literature, and dropout over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from miue_jax import models
from miue_jax.data.dataset import Split
from miue_jax.machine import loops, prng, sharding
from miue_jax.models import vit
from miue_jax.settings.config import Model, Sgd
from miue_jax.train import lanes, step


def test_number_of_parameters_of_vit_s():
  # ViT-S/16 for ImageNet: 22 M in Table 1 of DeiT (Touvron et al., 2021), 22,050,664 in full.
  module = models.build(Model(name="vit_s", stem="imagenet"), 1000, (224, 224, 3))
  assert oracle.number_of_parameters(module, (224, 224, 3)) == 22_050_664


class _Patch8(vit.ViT):
  patch = 8


@pytest.mark.parametrize(("small_data", "millions"), [(False, 2.8), (True, 2.9)])
def test_number_of_parameters_for_small_data(small_data, millions):
  # Table 2 of Lee et al.: ViT and SL-ViT for Tiny-ImageNet have 2.8 M and 2.9 M parameters; patches
  # of 8 pixels, 9 blocks, 12 heads of 16, tokens of 192, perceptrons of 384.
  module = _Patch8(
    Model(width=16), 200, depth=9, heads=12, dim=12, hidden=24, small_data=small_data, dropout=0.0
  )
  assert round(oracle.number_of_parameters(module, (64, 64, 3)) / 1e6, 1) == millions


@pytest.mark.parametrize(("stem", "side", "patch"), [("small", 32, 4), ("imagenet", 224, 16)])
def test_sl_vit_has_the_published_sizes(stem, side, patch):
  # Dimension 512, 12 blocks, 12 heads of 64, perceptrons of 768, counted layer by layer.
  tokens, pixels = (side // patch) ** 2 + 1, 5 * 3 * patch**2
  attention = 512 * 3 * 768 + (768 * 512 + 512) + 12  # queries, keys, values; output; factors
  perceptron = (512 * 768 + 768) + (768 * 512 + 512)
  expected = 12 * (attention + perceptron + 4 * 512)
  expected += 2 * pixels + (pixels * 512 + 512) + (tokens + 1) * 512 + 2 * 512 + (512 * 10 + 10)
  module = models.build(Model(name="sl_vit", stem=stem), 10, (side, side, 3))
  assert oracle.number_of_parameters(module, (side, side, 3)) == expected
  assert module.dropout == 0.1


@pytest.mark.parametrize("small_data", [False, True])
def test_matches_pytorch(small_data):
  torch = oracle.seeded_torch()
  nn, functional = torch.nn, torch.nn.functional
  depth, heads, size, dim, hidden, patch, side = 2, 3, 4, 8, 20, 4, 12
  tokens = (side // patch) ** 2 + 1
  pairs = oracle.Pairs()
  paired = pairs.paired

  def norm(features):
    layer = nn.LayerNorm(features, eps=1e-6)
    for tensor in layer.parameters():
      tensor.data.add_(torch.empty_like(tensor).uniform_(0, 0.2))
    return layer

  class Block(nn.Module):
    def __init__(self, index):
      super().__init__()
      first, name = 2 * index + small_data, f"Attention_{index}"
      self.norm1 = paired(norm(dim), f"LayerNorm_{first}")
      self.qkv = paired(nn.Linear(dim, 3 * heads * size, bias=not small_data), name, "Dense_0")
      self.out = paired(nn.Linear(heads * size, dim), name, "Dense_1")
      self.norm2 = paired(norm(dim), f"LayerNorm_{first + 1}")
      self.up = paired(nn.Linear(dim, hidden), f"Dense_{2 * index + 1}")
      self.down = paired(nn.Linear(hidden, dim), f"Dense_{2 * index + 2}")
      if small_data:
        self.scale = paired(nn.Parameter(torch.rand(heads) + 0.5), name, "scale")

    def forward(self, x):
      split = (t.unflatten(2, (heads, size)) for t in self.qkv(self.norm1(x)).chunk(3, 2))
      query, key, value = (t.transpose(1, 2) for t in split)
      mask = None
      if small_data:
        # The PyTorch function divides by sqrt(size).
        query = query * self.scale[:, None, None] * size**0.5
        mask = ~torch.eye(tokens, dtype=torch.bool)
      y = functional.scaled_dot_product_attention(query, key, value, mask)
      x = x + self.out(y.transpose(1, 2).flatten(2))
      return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

  class ViT(nn.Module):
    def __init__(self):
      super().__init__()
      pixels = patch**2 * 3 * (5 if small_data else 1)
      if small_data:
        self.pixel_norm = paired(norm(pixels), "LayerNorm_0")
      self.embed = paired(nn.Linear(pixels, dim), "Dense_0")
      self.first = paired(nn.Parameter(torch.randn(1, 1, dim)), "class_token")
      self.positions = paired(nn.Parameter(torch.randn(1, tokens, dim)), "positions")
      self.blocks = nn.Sequential(*(Block(i) for i in range(depth)))
      self.norm = paired(norm(dim), f"LayerNorm_{2 * depth + small_data}")
      self.linear = paired(nn.Linear(dim, oracle.CLASSES), "classifier")

    def forward(self, x):
      if small_data:
        s = patch // 2
        moves = [(-s, s, -s, s), (s, -s, -s, s), (-s, s, s, -s), (s, -s, s, -s)]
        x = torch.cat([x, *(functional.pad(x, move) for move in moves)], 1)
      channels = x.shape[1]
      # PyTorch orders unfolded values by channel and position, our code by position and channel.
      x = functional.unfold(x, patch, stride=patch).unflatten(1, (channels, patch**2))
      x = x.permute(0, 3, 2, 1).flatten(2)
      x = self.embed(self.pixel_norm(x) if small_data else x)
      x = torch.cat([self.first.expand(len(x), 1, dim), x], 1) + self.positions
      features = self.norm(self.blocks(x)[:, 0])
      return features, self.linear(features)

  module = vit.ViT(
    Model(width=size, normalise="none"),
    oracle.CLASSES,
    depth=depth,
    heads=heads,
    dim=dim // size,
    hidden=hidden // size,
    small_data=small_data,
    dropout=0.0,
  )
  oracle.assert_same(torch, ViT(), pairs, module, side)


def test_patches_are_taken_row_by_row():
  images = jnp.arange(4 * 6 * 2).reshape(1, 4, 6, 2)
  rows = vit.patches(images, 2)
  assert rows.shape == (1, 6, 8)
  np.testing.assert_array_equal(rows[0, 4], np.asarray(images)[0, 2:4, 2:4].reshape(-1))


def _dropped(devices, key, rate=0.3, batch=8):
  """Returns the gradient of the sum of ones after dropout in training, and the ones."""
  mesh = jax.make_mesh(
    (devices,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
  )

  def local(x, key):
    def total(x):
      y = vit.Dropout(rate).apply({}, x, True, rngs={"dropout": key})
      return y.sum(), y

    return jax.grad(total, has_aux=True)(x)

  data = jax.P("data")
  step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(data, jax.P()), out_specs=data))
  return [np.asarray(x) for x in step(jnp.ones((batch, 500)), key)]


def test_dropout_keeps_the_mean_and_draws_rows_independently():
  gradient, values = _dropped(2, jax.random.key(0))
  np.testing.assert_allclose(np.unique(values), [0, 1 / 0.7], rtol=1e-6)
  np.testing.assert_array_equal(gradient, values)
  # 4,000 draws: the share has a standard deviation of 0.0072.
  assert abs((values == 0).mean() - 0.3) < 4 * 0.0072
  assert len(np.unique(values, axis=0)) == 8
  assert (values != _dropped(2, jax.random.key(1))[1]).any()


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_number_of_devices():
  one, *others = (_dropped(devices, jax.random.key(0)) for devices in (1, 2, 4, 8))
  for several in others:
    np.testing.assert_array_equal(several, one)


def test_dropout_without_training_changes_nothing_and_needs_no_key():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(vit.Dropout(0.5).apply({}, x, False), x)


def _trained(steps=2):
  """Returns the parameters and the mean loss after some training steps on the mesh."""
  module = vit.ViT(
    Model(width=2), 3, depth=1, heads=2, dim=4, hidden=4, small_data=True, dropout=0.3
  )
  rng = np.random.default_rng(0)
  split = Split(rng.integers(0, 256, (24, 8, 8, 3), np.uint8), rng.integers(0, 3, 24, np.int32))
  optimiser = step.sgd(Sgd(), 1, steps)
  state = sharding.replicate(step.fresh_state(module, optimiser, jax.random.key(0), (8, 8, 3)))
  table, key = lanes.lay_out(24, (8,), 0).place(split), prng.stream(0, "fit", 0)
  constants = step.Pass(table, None, step.shuffler(8)(key, table.ids), key)
  advance = step.train_step(module, optimiser, step.plain_inputs("flip"), jax.P("data"))
  (state, sums), _ = loops.repeated(advance)((state, step.Sums.zero()), constants, 0, steps)
  return sharding.fetch(state.params), sums.read("vit")[0]


@pytest.mark.long
def test_a_fit_with_dropout_does_not_depend_on_the_number_of_devices(use_devices):
  use_devices(1)
  expected, expected_loss = _trained()
  use_devices(4)
  params, loss = _trained()
  oracle.assert_close(params, expected, 1e-4, floor=1e-2)
  assert loss == pytest.approx(expected_loss, rel=1e-5)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
