"""Tests what is timed, what is derived from the times, and the refusal of a missing peer."""

import dataclasses
import types

import jax.numpy as jnp
import pytest

from benchmarks import steps, torch_peer
from miue_jax.methods import miue
from miue_jax.plan.sizes import Sizes
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config, Data, Model, Sgd
from miue_jax.settings.errors import UserError


def test_random_data_has_the_shape_of_the_recipes_data(config):
  cifar100 = dataclasses.replace(config, data=Data(source="tfds", name="cifar100"))
  assert steps.sizes_for(cifar100) == Sizes((32, 32, 3), 32, 512, 100)
  assert steps.sizes_for(config) == Sizes((32, 32, 3), 32, 512, 10)
  assert steps.sizes_for(cifar100, 48, (8, 8, 1), 3) == Sizes((8, 8, 1), 48, 512, 3)


def test_a_stopwatch_runs_every_step_and_starts_again_after_a_pass(use_devices):
  use_devices(1)

  def step(carry, constants, index):
    del constants
    count, seen = carry
    return count + 1, seen.at[index].add(1)

  # The program has five steps in a pass and counts them.
  program = types.SimpleNamespace(
    step=step, steps=5, concrete=lambda seed: ((jnp.int32(0), jnp.zeros(5, jnp.int32)), None, 0)
  )
  watch = Stopwatch(program)
  assert watch.seconds(11) > 0
  count, seen = watch._carry
  # Two steps warm up; eleven follow.
  assert int(count) == 13
  assert seen.tolist() == [3, 3, 3, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["delta", "evaluate"])
def test_speeds_of_a_stage_agree_with_each_other(use_devices, config, stage):
  use_devices(2)
  settings = steps.Settings(stages=(stage,), repeats=3, seconds=0.0, peer="none")
  results = steps.run(config, steps.sizes_for(config, 32, (8, 8, 3), 4), settings)
  (row,) = results["stages"]
  assert results["peers"] == []
  assert row["batch"] == {"delta": 16, "evaluate": 512}[stage]
  for per_step, images in zip(row["steps/s"].values(), row["images/s"].values(), strict=True):
    assert images == pytest.approx(row["batch"] * per_step)
  # TFLOP/s is FLOPs per image times images per second.
  expected = row["GFLOP per image"] * row["images/s"]["median"] / 1e3
  assert row["TFLOP/s"] == pytest.approx(expected)
  # There are two products with the 192 x 4 matrix at least: one forward, one for the gradient.
  least = 2 * 192 * 4 * (1 if stage == "evaluate" else 2)
  assert least <= row["GFLOP per image"] * 1e9 < 30 * least
  assert row["of bf16 peak"] is None  # the peak of this CPU is not known


def test_an_unknown_stage_is_an_error(use_devices, config, sizes):
  use_devices(1)
  settings = steps.Settings(stages=("delta", "delt"), peer="none")
  with pytest.raises(UserError, match=r"Unknown stage 'delt' .* known: source, delta, victim"):
    steps.run(config, sizes, settings)


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"model": Model(name="linear")}, "resnet18"),
    ({"class_wise": True}, "sample-wise"),
    ({"source": Sgd(augment="crop")}, "flip"),
  ],
)
def test_a_config_without_a_peer_is_timed_alone_or_refused(use_devices, sizes, changes, reason):
  pytest.importorskip("torch", reason="without PyTorch no config has a peer")
  use_devices(1)
  config = Config(method=miue.Settings(**changes))
  assert torch_peer.unavailable(miue.Settings()) is None
  assert reason in torch_peer.unavailable(config.method)
  with pytest.raises(UserError, match="--peer=torch cannot run: .*" + reason):
    steps.run(config, sizes, steps.Settings(peer="torch"))
  with pytest.raises(
    UserError, match="more than the 32 training images"
  ):  # the peer alone is no obstacle
    steps.run(config, sizes, steps.Settings(peer="auto"))
