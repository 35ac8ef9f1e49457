"""Targets: their names, and the programs that the compilers of chips make of a small recipe."""

import dataclasses
import importlib.util
import json
import math
import re

import jax
import pytest
from plan_settings import CONFIG, QUICK, SIZES, with_method

from miue_jax.machine import apart
from miue_jax.plan import plan, programs, targets, text, traffic
from miue_jax.plan.cost import Collective, Cost, Kernels, collectives
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes

FEATURES = 16
# Tables too large for the memory on a chip, into which a compiler may copy small ones; images are
# one row of a TPU's tiles, a whole tile, and many.
MANY = [
  dataclasses.replace(SIZES, image=image, train=train)
  for image, train in (((16, 16, 1), 4_000_000), ((32, 32, 1), 1_000_000), ((224, 224, 3), 24_000))
]

tpu = pytest.mark.skipif(
  not importlib.util.find_spec("libtpu"), reason="the extra tpu is not installed"
)
gpu = pytest.mark.skipif(
  not importlib.util.find_spec("jax_cuda12_plugin"), reason="the extra gpu is not installed"
)


@pytest.mark.parametrize(
  ("name", "chips", "devices", "extra"),
  [
    ("v5e:8x8", 64, 64, "tpu"),
    ("V5P:4x4x4", 64, 64, "tpu"),
    ("tpu7x:2x2x1", 4, 8, "tpu"),
    ("h200", 1, 1, "gpu"),
    ("a100:8", 8, 8, "gpu"),
  ],
)
def test_names_of_targets(name, chips, devices, extra):
  target = targets.parse(name)
  assert (target.chips, target.devices, target.extra) == (chips, devices, extra)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v9:2x2", "known, with an example: a100:8, h100:8, h200:8, v4:2x2x1, v5e:2x4"),
    ("v5e", "v5e needs a slice of 2 axes"),
    ("v5e:8", "such as v5e:2x4"),
    ("v5e:32x32", "at most 256 chips"),
    ("v5p:4x-4x4", "such as v5p:2x2x1"),
    ("h200:9", "a number of GPUs, at most 8"),
  ],
)
def test_names_that_are_no_target(name, message):
  with pytest.raises(UserError, match=message):
    targets.parse(name)


def test_without_the_compiler_the_plan_names_the_extra(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(plan, "_CALIBRATION_SECONDS", 0.0)
  options = plan.Options(target="v5e:2x2", image_shape=(12, 12, 1), train_images=100, classes=4)
  made = plan.make(with_method("lsp", QUICK), options)
  assert not made.exact
  page = text.markdown(made)
  assert "pip install 'miue-jax[tpu]'" in page
  assert "| 4 x TPU v5e" in page  # a plan for four chips of any kind


def test_a_slice_that_does_not_divide_a_batch_names_the_batch(use_devices):
  use_devices(4)
  fit = dataclasses.replace(CONFIG.victim_fit, batch_size=10)
  message = r"victim_fit\.batch_size=10 is not divisible by 4 devices"
  with pytest.raises(UserError, match=message):
    programs.build(dataclasses.replace(CONFIG, victim_fit=fit), SIZES)


@pytest.mark.parametrize("changes", [{"chips": 3}, {"target": "v5e:2x3"}])
def test_chips_that_do_not_divide_a_batch_are_refused_before_anything_is_timed(
  changes, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no compiler of a target
  monkeypatch.setattr(plan, "calibrate", lambda *arguments: pytest.fail("steps are timed"))
  options = plan.Options(**changes, image_shape=(12, 12, 1), train_images=100, classes=4)
  with pytest.raises(UserError, match=r"batch_size=\d+ is not divisible by"):
    plan.make(with_method("lsp", QUICK), options)


def delta_step(name, sizes):
  """Compiles the delta step for a target; returns its HLO and the compiled program."""
  targets.prepare()
  with jax.set_mesh(targets.mesh(targets.parse(name))):
    program = programs.build(CONFIG, sizes)["delta"]
    compiled = program.lowered().compile()
  return compiled.as_text(), compiled


def values(shape):
  """Returns the number of values of `f32[2,3]`."""
  return math.prod(map(int, re.findall(r"\d+", shape.partition("[")[2])))


def tables(sizes):
  """Returns the shapes of the tables of images and perturbations on one of four chips."""
  shape = ",".join(map(str, (sizes.train // 4, *lanes.row_shape(sizes.image))))
  return f"u8[{shape}]", f"s16[{shape}]"


def copies(hlo, shapes):
  """Returns the operations that write an array of one of these shapes a second time."""
  found = rf"= \(?({'|'.join(map(re.escape, shapes))})[^=]*? (copy|copy-start|transpose)\("
  return [line.strip() for line in hlo.splitlines() if re.search(found, line)]


def test_a_crash_of_the_compiler_names_target_and_step(monkeypatch):
  def each(work):
    yield "source", None
    raise apart.Crashed("SIGSEGV")

  monkeypatch.setattr(apart, "each", each)
  options = plan.Options(target="v6e:2x4")
  message = r"The compiler of v6e:2x4 crashed \(SIGSEGV\) while it compiled the step source: choose"
  with pytest.raises(UserError, match=message):
    plan._compiled(CONFIG, options, SIZES, targets.parse("v6e:2x4"))


def test_costs_survive_as_json_values():
  reduced = Collective("all-reduce", ("f32[8]", "f32[2,2]"), 48, 4)
  cost = Cost(1e9, 5, 6, 11, (reduced,), kernels=Kernels(1, 2, 3, 4, 5), fits=False)
  assert Cost.restored(json.loads(json.dumps(dataclasses.asdict(cost)))) == cost


def test_copies_are_seen():
  hlo = "%c = s16[8,2]{1,0} copy(%p)\n%d = (u8[3]{0:S(1)}, u8[3]{0}, u32[]) copy-start(%q)"
  assert len(copies(hlo, ["s16[8,2]", "u8[3]"])) == 2
  assert copies(hlo, ["s16[9,2]"]) == []


@tpu
@pytest.mark.slow
@pytest.mark.parametrize("sizes", MANY, ids=lambda sizes: "x".join(map(str, sizes.image)))
@pytest.mark.parametrize("name", ["v5e:2x2", "v6e:2x2"])
def test_the_delta_step_of_a_tpu(name, sizes):
  hlo, compiled = delta_step(name, sizes)
  found = collectives(hlo, 4)
  # The features and their gradient, labels, weights, and scalars; an image has 256 values or more,
  # and no weight arrives.
  arrays = {shape for collective in found for shape in collective.shapes}
  assert {shape for shape in arrays if values(shape) > 32} <= {
    f"f32[32,{FEATURES}]",
    f"f32[8,{FEATURES}]",
  }
  assert f"f32[32,{FEATURES}]" in arrays
  assert sum(collective.payload for collective in found) < 2 * 4 * 32 * (FEATURES + 3)
  assert not re.search(r"\b(infeed|outfeed|send|recv)\(|callback", hlo)
  assert copies(hlo, tables(sizes)) == []
  memory = compiled.memory_analysis()
  values_here = sizes.train // 4 * math.prod(sizes.image)
  assert memory.alias_size_in_bytes >= 2 * values_here  # delta is updated in place
  assert memory.argument_size_in_bytes < 3.2 * values_here  # tiles are full
  # Room for what the network computes of the batch, and for no table.
  height, width, _ = sizes.image
  assert memory.temp_size_in_bytes < min(16e6 * height * width / 256, values_here)


@tpu
@pytest.mark.slow
def test_a_plan_by_the_compiler_of_a_tpu():
  options = plan.Options(
    target="v5e:1x1", price=2.0, image_shape=(12, 12, 1), train_images=100, classes=4
  )
  with jax.set_mesh(None):
    made = plan.make(with_method("lsp", QUICK), options)
  assert made.exact
  page, document = text.markdown(made), text.document(made)
  assert "| lower bound" in page
  assert document["fits"]
  for name, cost in made.costs.items():
    assert cost.flops > 0
    # Every argument that is read moves, and no small program needs 10 times of it.
    assert 0 < cost.moved < 1e7
    least = document["programs"][name]["bound"]
    assert least["memory"] == pytest.approx(cost.moved / 819e9)


@gpu
@pytest.mark.slow
def test_the_delta_step_of_a_gpu():
  sizes = MANY[0]
  hlo, compiled = delta_step("h200:4", sizes)
  gathered = [each for each in collectives(hlo, 4) if each.kind == "all-gather"]
  assert sum(each.payload for each in gathered) <= 32 * (4 * FEATURES + 4 + 4)
  assert copies(hlo, tables(sizes)) == []
  assert compiled.memory_analysis().alias_size_in_bytes >= 2 * sizes.train // 4 * 256


@gpu
@pytest.mark.slow
def test_batch_norm_and_relu_are_parts_of_the_convolutions_of_a_gpu():
  targets.prepare()
  model = dataclasses.replace(CONFIG.method.model, name="resnet18", width=16, dtype="bfloat16")
  config = dataclasses.replace(CONFIG, method=dataclasses.replace(CONFIG.method, model=model))
  with jax.set_mesh(targets.mesh(targets.parse("h200"))):
    program = programs.build(config, dataclasses.replace(SIZES, image=(32, 32, 3)))["delta"]
    options = {"xla_gpu_autotune_level": 0}
    compiled = program.lowered().compile(compiler_options=options)
  hlo = compiled.as_text()
  _, kernels = traffic.counted(hlo)
  assert kernels.convolutions == 2 * 20
  # Weights take on batch norm before the loop over steps, and get the layout of cuDNN there.
  assert kernels.others <= 60
  assert kernels.copies + kernels.transposes <= 2
  assert len(re.findall(r'"__cudnn\$convBiasActivationForward"', hlo)) == 20
  assert not re.search(r" maximum_fusion", hlo)
