"""The benchmark: what it counts, what it compares with, and the program as a user runs it."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import estimator_speed, scaling, timing, torch_peer
from miue_jax import objectives
from miue_jax.plan.sizes import Sizes
from miue_jax.plan.stopwatch import Stopwatch
from miue_jax.settings.config import Config, Data, Fit, Method, Model, Sgd
from miue_jax.settings.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
LINEAR = Model(name="linear")  # compiled in no time
CONFIG = Config(
  data=Data(source="npz"),
  model=LINEAR,
  victim=LINEAR,
  source=Sgd(batch_size=8),
  method=Method(batch_size=16, epochs=1, steps=2),
  victim_fit=Fit(batch_size=8),
)
SIZES = Sizes((8, 8, 3), 32, 40, 4)


@pytest.fixture
def torch():
  """PyTorch on one thread: networks this small gain nothing from more."""
  torch = pytest.importorskip("torch", reason="the peer is PyTorch")
  threads = torch.get_num_threads()
  torch.set_num_threads(1)
  yield torch
  torch.set_num_threads(threads)


def test_spread_is_median_and_range():
  assert timing.spread([3.0, 9.0, 1.0, 5.0]) == {"median": 4.0, "low": 1.0, "high": 9.0}


def test_random_data_has_the_shape_of_the_recipes_data():
  settings = timing.Settings()
  cifar100 = dataclasses.replace(CONFIG, data=Data(source="tfds", name="cifar100"))
  assert timing.sizes_for(cifar100, settings) == Sizes((32, 32, 3), 32, 512, 100)
  assert timing.sizes_for(CONFIG, settings) == Sizes((32, 32, 3), 32, 512, 10)
  given = timing.Settings(images=48, image_shape=(8, 8, 1), classes=3)
  assert timing.sizes_for(cifar100, given) == Sizes((8, 8, 1), 48, 512, 3)


def test_a_stopwatch_runs_every_step_and_starts_again_after_a_pass(use_devices):
  use_devices(1)

  def step(carry, constants, index):
    del constants
    count, seen = carry
    return count + 1, seen.at[index].add(1)

  # A program of five steps a pass that counts them.
  program = types.SimpleNamespace(
    step=step, steps=5, concrete=lambda seed: ((jnp.int32(0), jnp.zeros(5, jnp.int32)), None, 0)
  )
  watch = Stopwatch(program)
  assert watch.seconds(11) > 0
  count, seen = watch._carry
  # Two to warm up, eleven more.
  assert int(count) == 13
  assert seen.tolist() == [3, 3, 3, 2, 2]


@pytest.mark.parametrize("stage", ["delta", "evaluate"])
def test_speeds_of_a_stage_agree_with_each_other(use_devices, stage):
  use_devices(2)
  settings = timing.Settings(stages=(stage,), repeats=3, seconds=0.0, images=32, peer="none")
  settings = dataclasses.replace(settings, image_shape=(8, 8, 3), classes=4)
  results = timing.run(CONFIG, settings)
  (row,) = results["stages"]
  assert results["peers"] == []
  assert row["batch"] == {"delta": 16, "evaluate": 512}[stage]
  for steps, images in zip(
    row["steps_per_second"].values(), row["images_per_second"].values(), strict=True
  ):
    assert images == pytest.approx(row["batch"] * steps)
  # TFLOP/s is FLOPs per image times images per second.
  expected = row["flops_per_image"] * row["images_per_second"]["median"] / 1e12
  assert row["tflops"] == pytest.approx(expected)
  # Two products with the 192 x 4 matrix at least: one forward, one for the gradient.
  least = 2 * 192 * 4 * (1 if stage == "evaluate" else 2)
  assert least <= row["flops_per_image"] < 30 * least
  assert row["peak_share"] is None  # nobody knows the peak of this CPU


def test_traffic_over_devices_is_that_of_a_ring(use_devices):
  use_devices(1)
  rows = scaling.over_devices(CONFIG, SIZES)
  assert [row["devices"] for row in rows] == [n for n in (1, 2, 4, 8) if n <= len(jax.devices())]
  features = 8 * 8 * 3
  for row in rows:
    n = row["devices"]
    # Features gathered and their gradients scattered; a label, a weight; loss and total summed.
    gathered = 16 * 4 * (2 * features + 2) * (n - 1) / n
    assert row["delta"] == pytest.approx(gathered + 2 * 8 * (n - 1) / n, rel=0.01)
    # Gradients of matrix and bias; loss and correct answers.
    assert row["source"] == pytest.approx(2 * 4 * (4 * features + 4 + 2) * (n - 1) / n, rel=0.01)


def test_estimators_are_timed_beside_scikit_learn(use_devices, monkeypatch):
  use_devices(1)
  for name, value in (("SAMPLES", 600), ("FEATURES", 20), ("SLICES", 30)):
    monkeypatch.setattr(estimator_speed, name, value)
  results = timing.run(CONFIG, timing.Settings(stages=("information",), repeats=3, peer="none"))
  assert results["stages"] == results["peers"] == []
  rows, peer = results["information"]["rows"], results["information"]["peer"]
  assert [(row["samples"], row["features"]) for row in rows] == [(600, 20), (600, 2), (600, 1)]
  for spread in (*(row["seconds"] for row in rows), peer["seconds"]):
    assert 0 < spread["low"] <= spread["median"] <= spread["high"]
  # Of each pair of runs its time over ours, so that the extremes bound the ratio.
  ours, theirs = rows[-1]["seconds"], peer["seconds"]
  assert theirs["low"] / ours["high"] <= peer["ratio"]["low"]
  assert peer["ratio"]["high"] <= theirs["high"] / ours["low"]
  # Kraskov's first estimator on both sides, of the same 600 pairs.
  assert peer["nats"]["ours"] == pytest.approx(peer["nats"]["theirs"], abs=2e-3)

  text = timing.text(results | {"date": "2026-01-01"})
  lines = [line for line in text.splitlines() if line.startswith("|")]
  assert [line.split("|")[3].strip() for line in lines[2:]] == ["20", "2", "1", "1"]
  assert f"takes {peer['ratio']['median']:.3g} (" in text
  assert f"says {peer['nats']['theirs']:.3f} nats, ours {peer['nats']['ours']:.3f}" in text


def test_runs_take_turns_and_the_first_round_does_not_count():
  order = []
  seconds = estimator_speed._times([lambda: order.append("a"), lambda: order.append("b")], 2)
  assert order == ["a", "b"] * 3
  assert [len(times) for times in seconds] == [2, 2]


def test_an_epoch_is_run_for_each_number_of_images(use_devices, tmp_path):
  use_devices(1)
  rows = scaling.over_images(CONFIG, SIZES, (40,))
  assert [row["images"] for row in rows] == [40]
  for row in rows:
    # One source pass in batches of 8 and two sign steps on every image.
    assert row["images_per_second"] * row["seconds"] == pytest.approx(3 * row["images"])
  scaling.draw_images(rows, tmp_path / "images.svg")
  drawn = (tmp_path / "images.svg").read_text()
  assert all(label in drawn for label in ("images/s", "seconds per epoch", "training images"))


def test_the_peer_minimises_our_loss(torch):
  rng = np.random.default_rng(0)
  features = rng.standard_normal((24, 6)).astype(np.float32)
  labels = rng.integers(0, 3, 24)
  for method in (Method(zeta=0.0), Method(zeta=0.7, tau=0.5, similarity_weight=0.3)):
    z = torch.tensor(features, requires_grad=True)
    theirs = torch_peer.mi_reduction(torch, z, torch.tensor(labels), method)
    theirs.backward()

    def ours(z, method=method):
      rows = objectives.mi_reduction(
        z, labels, z, labels, jnp.ones(24),
        tau=method.tau, zeta=method.zeta, similarity_weight=method.similarity_weight,
      )  # fmt: skip
      return rows.mean()

    value, gradient = jax.jit(jax.value_and_grad(ours))(features)
    assert theirs.item() == pytest.approx(float(value), rel=1e-5)
    # Ours takes the distance to the gathered batch, whose rows are the same variable here.
    np.testing.assert_allclose(z.grad.numpy(), gradient, atol=1e-5)


def test_the_peers_network_is_resnet18(torch):
  network = torch_peer.resnet18(torch, 64, 3, 10)
  assert sum(p.numel() for p in network.parameters()) == 11_173_962
  features, logits = network(torch.zeros(2, 3, 32, 32))
  assert (features.shape, logits.shape) == ((2, 512), (2, 10))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stage", torch_peer.STAGES)
@pytest.mark.usefixtures("torch")
def test_a_peer_takes_steps(stage, channels_last):
  # With 4 channels PyTorch 2.13 corrupts its memory on CPUs without AVX-512 (channels last).
  config = dataclasses.replace(CONFIG, model=Model(width=8))
  peer = torch_peer.Peer(stage, config, SIZES, 8, channels_last)
  assert peer.batch == 8
  assert peer.seconds(3) > 0
  assert peer.measure(0.0) == peer.step_seconds > 0


@pytest.mark.usefixtures("torch")
def test_a_peer_apart_is_timed_in_a_process_of_its_own():
  config = dataclasses.replace(CONFIG, model=Model(width=4))
  with torch_peer.apart("delta", config, SIZES, 8, False) as measure:
    assert measure(0.0) > 0
    (process,) = multiprocessing.active_children()
  assert not process.is_alive()


def test_a_peer_moves_delta_within_the_budget(torch):
  config = dataclasses.replace(CONFIG, model=Model(width=4), method=Method(batch_size=8))
  peer = torch_peer.Peer("delta", config, SIZES, 8, False)
  (deltas,) = [c.cell_contents for c in peer._step.__closure__ if _floats(torch, c.cell_contents)]
  before = deltas.clone()
  assert 0 < before.abs().max() <= 0.2 / 255 + 1e-6  # both batches were moved once
  peer.seconds(100)
  assert deltas.abs().max() <= 8 / 255 + 1e-6
  assert (deltas - before).abs().max() > 0.2 / 255


def _floats(torch, value):
  return isinstance(value, torch.Tensor) and value.is_floating_point()


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"model": LINEAR}, "resnet18"),
    ({"method": Method(class_wise=True)}, "sample-wise"),
    ({"source": Sgd(augment="crop")}, "flip"),
  ],
)
@pytest.mark.usefixtures("torch")
def test_what_has_no_peer_is_left_out_or_refused(use_devices, changes, reason):
  use_devices(1)
  config = dataclasses.replace(Config(), **changes)
  assert torch_peer.unavailable(Config()) is None
  assert reason in torch_peer.unavailable(config)
  settings = timing.Settings(stages=(), peer="torch")
  with pytest.raises(UserError, match="--peer=torch cannot be had: .*" + reason):
    timing.run(config, settings)
  assert reason in timing.run(config, dataclasses.replace(settings, peer="auto"))["no_peer"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stages": ["delta", "delt"]}, "Unknown stage 'delt'"),
    ({"image_shape": ["32", "32"]}, "image_shape is 32,32;"),
    ({"image_shape": ["32", "32", "-3"]}, "image_shape is 32,32,-3;"),
  ],
)
def test_flags_that_make_no_sense_are_errors(changes, message):
  flags = {"stages": ["delta"], "repeats": 1, "seconds": 1.0, "images": 0, "image_shape": None}
  flags |= {"classes": 0, "peer": "auto", "peer_batch": 0, **changes}
  with pytest.raises(UserError, match=message):
    timing._settings(types.SimpleNamespace(**flags))


def run(*arguments):
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  return subprocess.run(
    [sys.executable, "-m", "benchmarks.speed", *arguments],
    capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False,
  )  # fmt: skip


@pytest.mark.slow
def test_the_program_writes_a_table_json_and_plots(tmp_path):
  done = run(
    "--config.model.name=linear", "--config.victim.name=linear", "--config.method.epochs=1",
    "--config.method.batch_size=8", "--config.source.batch_size=8",
    "--config.victim_fit.batch_size=8", "--config.measure.samples=50", "--stages=delta,measure",
    "--repeats=2", "--seconds=0", "--peer=none", "--check_plan", f"--plots={tmp_path / 'plots'}",
    "--scaling=8,16", f"--output={tmp_path / 'results.json'}",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / "results.json").read_text())
  assert [row["stage"] for row in results["stages"]] == ["delta", "measure"]
  found = results["plan"]
  assert found["ratio"] == pytest.approx(found["measured"] / found["predicted"])
  assert [row["images"] for row in results["over_images"]] == [8, 16]
  assert [row["devices"] for row in results["over_devices"]][:3] == [1, 2, 4]
  assert "16 random images of 32x32x1" in done.stdout
  rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
  assert {"step", "delta", "measure", "images", "devices"} <= set(rows)
  assert {path.name for path in (tmp_path / "plots").iterdir()} == {"images.svg", "devices.svg"}


def test_a_mistake_is_one_sentence_and_status_2():
  done = run("--config.method.stepz=3")
  assert done.returncode == 2
  assert done.stderr.startswith("miue-jax: Unknown config key method.stepz")
  assert "Traceback" not in done.stderr
