"""Tests compiled steps: devices exchange features and scalars, no images; hosts get nothing."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import models
from miue_jax.data.dataset import Dataset, Split
from miue_jax.machine import loops
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS
from miue_jax.models import layers
from miue_jax.settings.config import Model, Sgd

COUNT, BATCH, CLASSES, FEATURES = 64, 32, 4, 8
SHAPE = (8, 8, 3)
SETTINGS = {
  "model": Model(name="tiny"),
  "source": Sgd(batch_size=16),
  "epochs": 1,
  "batch_size": BATCH,
  "steps": 1,
}
GATHERED = BATCH * FEATURES  # float32; an image alone is 192 values, the parameters are 1,536
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter",
               "collective-broadcast")  # fmt: skip


class Tiny(nn.Module):
  """One hidden layer with batch norm."""

  model: Model
  num_classes: int
  min_side = 1

  @nn.compact
  def __call__(self, images, train=False):
    hidden = nn.Dense(FEATURES)(images.reshape(len(images), -1))
    features = nn.relu(layers.batch_norm(train, "float32")(hidden))
    return features, layers.classifier(self.num_classes)(features)


def collectives(hlo):
  """Returns `(name, values)` of every array that a collective brings to a device."""
  names = "|".join(COLLECTIVES)
  hlo = re.sub(r"/\*.*?\*/", "", hlo)  # long tuples are numbered in comments
  found = []
  for shapes, name in re.findall(rf"= (\(?[^=()]*\)?) ({names})(?:-start)?\(", hlo):
    for dimensions in re.findall(r"\w\d+\[([\d,]*)\]", shapes):
      found.append((name, math.prod(int(size) for size in dimensions.split(",") if size)))
  return found


@pytest.fixture
def steps(tmp_path, use_devices, monkeypatch, reporter):
  """Returns `steps(name, **settings)`: compiled HLO of the source step and of the delta step."""
  monkeypatch.setitem(models.MODELS, "tiny", Tiny)
  compiled, repeated = [], loops.repeated

  def recorded(step):
    run = repeated(step)

    def recording(carry, constants, *arguments, **options):
      lowered = jax.jit(step).lower(carry, constants, jnp.int32(0))
      compiled.append(lowered.compile().as_text())
      return run(carry, constants, *arguments, **options)

    return recording

  monkeypatch.setattr(loops, "repeated", recorded)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (COUNT, *SHAPE), np.uint8)
  split = Split(images, np.arange(COUNT, dtype=np.int32) % CLASSES)

  def run(name="miue", **changes):
    use_devices(4)
    dataset = Dataset("tiny", split, None, tuple("abcd"))
    settings = METHODS[name].settings(**SETTINGS, **changes)
    METHODS[name].generate(dataset, settings, 0, Checkpoints(tmp_path), reporter())
    return compiled

  return run


def test_shapes_are_read_from_hlo():
  hlo = """
  %all-gather.1 = f32[32,8]{1,0} all-gather(%a), channel_id=1
  %all-reduce-start = (f32[2,3]{1,0}, f32[]) all-reduce-start(%b, %c), channel_id=2
  ROOT %fusion = f32[999]{0} fusion(%all-reduce-done), calls=%all-gather.2
  %collective-permute = s32[7]{0} collective-permute(%d), source_target_pairs={{0,1}}
  """
  assert collectives(hlo) == [
    ("all-gather", 256),
    ("all-reduce", 6),
    ("all-reduce", 1),
    ("collective-permute", 7),
  ]


# Operations that wait for a host or call Python there.
HOST = r"\b(infeed|outfeed|send|recv|send-done|recv-done)\(|custom_call_target=\"[^\"]*callback"


def transfers(hlo):
  """Returns the operations of compiled HLO that exchange data with the host."""
  return [line.strip() for line in hlo.splitlines() if re.search(HOST, line)]


def test_transfers_are_seen():
  def looks(x):
    jax.debug.print("{}", x.sum())
    return x + 1

  hlo = jax.jit(looks).lower(jnp.ones(3)).compile().as_text()
  assert transfers(hlo) != []
  assert transfers("  %i = ((f32[3]{0}), token[]) infeed(%token)") != []


@pytest.mark.slow
def test_no_step_exchanges_anything_with_the_host(steps):
  source, delta = steps()
  assert transfers(source) == transfers(delta) == []


@pytest.mark.long
@pytest.mark.parametrize("changes", [{}, {"balanced": True, "augment_poisoned": True, "draws": 2}])
def test_a_delta_step_gathers_features_and_nothing_larger(steps, changes):
  source, delta = map(collectives, steps(**changes))
  # The source step shows how large gradients or images are.
  assert max(values for _, values in source) >= FEATURES * math.prod(SHAPE)
  assert max(values for _, values in delta) == GATHERED
  assert ("all-gather", GATHERED) in delta


@pytest.mark.long
def test_a_class_wise_delta_step_also_sums_the_patterns_gradient(steps):
  _, delta = steps(class_wise=True)
  patterns = CLASSES * math.prod(SHAPE)
  larger = [collective for collective in collectives(delta) if collective[1] > GATHERED]
  assert larger == [("all-reduce", patterns)]


@pytest.mark.long
def test_an_auxiliary_network_gathers_only_clean_features(steps):
  _, delta = map(collectives, steps(name="em_mine"))
  gathered = [values for name, values in delta if name == "all-gather"]
  assert max(gathered) == GATHERED
  # The largest sum is the gradient of the statistics network, whose widest layer has 64 x 64
  # weights.
  assert max(values for _, values in delta) == 64 * 64
