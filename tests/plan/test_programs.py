"""Programs against arithmetic by hand: steps, FLOPs, bytes, collectives."""

import dataclasses

import jax
import pytest
from plan_settings import CONFIG, QUICK, SIZES, with_method

from miue_jax.machine import cpu
from miue_jax.methods import METHODS
from miue_jax.plan import plan, programs, sizes
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError

NAMES = ("source", "delta", "victim", "evaluate")


def totals(config, size=SIZES):
  return {name: program.total for name, program in programs.build(config, size).items()}


def passes(config, size=SIZES):
  """Passes that make the poison, and those of victims."""
  built = programs.build(config, size)
  counts = {name: program.passes * program.segments for name, program in built.items()}
  return round(sum(counts[name] for name in programs.generation(built))), counts["victim"]


@pytest.fixture(scope="module")
def costs():
  """Costs of the programs on one device, and of those that communicate on four."""
  found = {}
  for count in (1, 4):
    with jax.set_mesh(plan.pod(count)):
      built = programs.build(CONFIG, SIZES)
      found[count] = {name: program.cost() for name, program in built.items()}
  return found


@pytest.mark.long
@pytest.mark.parametrize(
  ("name", "phases"),
  [
    ("miue", ["source", "delta"]),
    ("em_mine", ["source", "delta"]),
    ("tue", ["source", "delta"]),
    ("ap", ["source", "delta", "keep"]),
    ("ap_mine", ["source", "delta", "keep"]),
    ("ntga", ["delta"]),
    ("lsp", []),
  ],
)
def test_every_kind_of_method_has_programs_that_compile(name, phases, use_devices):
  use_devices(1)
  built = programs.build(with_method(name, QUICK), SIZES)
  assert list(built) == [*phases, "victim", "evaluate"]
  assert programs.generation(built) == phases
  for phase in phases:
    assert built[phase].cost().flops > 0


def test_the_programs_of_the_game_compile(use_devices):
  use_devices(1)
  size = dataclasses.replace(SIZES, image=(32, 32, 1))
  model = dataclasses.replace(CONFIG.method.model, width=4)
  built = programs.build(with_method("gue", QUICK, model=model, response_steps=1), size)
  assert programs.generation(built) == ["game", "apply"]
  assert built["apply"].cost().flops > 0
  assert built["game"].steps == 6


def test_all_methods_can_be_planned():
  with jax.set_mesh(plan.pod(1)):
    size = dataclasses.replace(SIZES, image=(32, 32, 3))
    for name in METHODS:
      assert "victim" in programs.build(with_method(name, QUICK), size)


def test_the_plan_counts_source_steps_that_a_method_limits(use_devices):
  use_devices(1)
  config = with_method(source_steps=2, epochs=4)
  found = totals(config)
  assert (found["source"], found["delta"]) == (4 * 2, 4 * 5 * 4)
  # Two of six source batches are a third of a pass.
  assert passes(config) == (round(4 * (5 + 2 / 6)), 6 * 7)


def test_an_ensemble_multiplies_the_poison_and_nothing_else(use_devices):
  use_devices(1)
  one, three = totals(CONFIG), totals(with_method(ensemble=3))
  assert three == one | {"delta": 3 * one["delta"], "source": 3 * one["source"]}


def test_restarts_multiply_the_attack_alone(use_devices):
  use_devices(1)
  one, two = (totals(with_method("ap", QUICK, restarts=n)) for n in (1, 2))
  assert two == one | {name: 2 * one[name] for name in ("delta", "keep")}


@pytest.mark.long
def test_an_adversary_of_ten_steps_multiplies_the_work(use_devices):
  use_devices(1)

  def flops(name, step):
    config = with_method(name, augment="none", augment_poisoned=False, draws=1)
    return programs.build(config, SIZES)[step].cost().flops

  # In forward passes: a sign step of either side is 2, a train step 3.
  assert flops("rem", "delta") / flops("em", "delta") == pytest.approx(11, rel=0.1)
  assert flops("sem", "delta") / flops("em", "delta") == pytest.approx(1, rel=0.1)
  assert flops("rem", "source") / flops("em", "source") == pytest.approx(23 / 3, rel=0.1)


def test_steps_and_passes_of_a_whole_run(use_devices):
  use_devices(1)
  assert totals(CONFIG) == {
    "delta": 3 * 5 * 4,  # 100 images in padded batches of 32
    "source": 3 * 6,  # whole batches of 16
    "victim": 6 * 7 * 12,  # 6 victims
    "evaluate": 6 * 8 * 2,  # after each of 7 epochs and at the end, 600 images by 512
  }
  assert passes(CONFIG) == (3 * 6, 6 * 7)
  # The paper's recipe has the 1,100 passes of its generation and 9 victims of 200 epochs.
  cifar = sizes.Sizes((32, 32, 3), 50_000, 10_000, 10)
  assert passes(Config(method=METHODS["miue"].settings()), cifar) == (1100, 9 * 200)


@pytest.mark.long
def test_parts_of_a_batch_need_less_memory_where_loops_are_on_the_device(monkeypatch, use_devices):
  use_devices(1)
  monkeypatch.setattr(cpu, "in_use", lambda: False)
  temporaries = []
  for microbatch in (0, 8):
    built = programs.build(with_method(microbatch=microbatch), SIZES)
    temporaries.append(built["delta"].cost().temporaries)
  assert temporaries[1] < 0.6 * temporaries[0]


def convolutions(side, channels, width):
  """Multiply-adds of small_cnn's forward pass for one image, those with padding left out."""
  total, inputs = 0, channels
  for outputs, halved in ((width, 0), (2 * width, 1), (4 * width, 2), (4 * width, 2)):
    places = side >> halved
    # A 3x3 window loses a third of its column at each border of its row, and so along both axes.
    total += (3 * places - 2) ** 2 * inputs * outputs
    inputs = outputs
  return total


@pytest.mark.long
def test_flops_of_a_forward_pass_are_those_of_its_convolutions(costs):
  per_image = costs[1]["evaluate"].flops / 512
  expected = 2 * (convolutions(12, 1, 4) + 16 * 4)
  # Batch norm, ReLU and pooling come on top: some ten operations for each of 2,304 activations.
  assert expected < per_image < expected + 25 * 144 * 8


@pytest.mark.long
def test_training_computes_about_three_forward_passes_and_a_sign_step_two(costs):
  images = {"delta": 32, "source": 16, "victim": 8}
  forward = costs[1]["evaluate"].flops / 512
  ratio = {name: costs[1][name].flops / batch / forward for name, batch in images.items()}
  assert 1.7 < ratio["delta"] < 2.8
  assert 2.5 < ratio["source"] < 4
  assert 2.5 < ratio["victim"] < 5  # at batch 8 the update of parameters weighs more


@pytest.mark.long
@pytest.mark.parametrize("name", ["delta", "source"])
def test_flops_are_of_all_devices_together(costs, name):
  # What each device does for itself, such as the update of the parameters, counts four times.
  one, four = costs[1][name].flops, costs[4][name].flops
  assert one * 0.99 < four < one * 1.35


@pytest.mark.long
def test_one_device_communicates_nothing(costs):
  assert all(cost.sent == 0 for cost in costs[1].values())


@pytest.mark.long
def test_the_delta_step_gathers_features_labels_and_weights_alone(costs):
  gathered = [c for c in costs[4]["delta"].collectives if c.kind == "all-gather"]
  # 16 features, a label and a weight of 4 bytes for each of 32 images.
  assert sum(c.payload for c in gathered) == 32 * 4 * (16 + 1 + 1)
  assert max(c.payload for c in costs[4]["delta"].collectives) == 32 * 4 * 16
  assert {c.group for c in gathered} == {4}


@pytest.mark.long
def test_a_train_step_sums_every_parameter_once(costs):
  parameters = programs.parameters(CONFIG, SIZES)["source"]
  # 3x3 kernels, two vectors of a batch norm for each, and the classifier.
  assert parameters == 9 * (4 + 4 * 8 + 8 * 16 + 16 * 16) + 2 * (4 + 8 + 16 + 16) + 17 * 4
  reduced = costs[4]["source"].collectives
  assert {c.kind for c in reduced} == {"all-reduce"}
  payload = sum(c.payload for c in reduced)
  # Beside the gradients there are statistics: two vectors per batch norm, forward and backward.
  assert 4 * parameters < payload < 4 * (parameters + 4 * 2 * (4 + 8 + 16 + 16)) + 64


def test_bytes_on_a_device(use_devices):
  use_devices(4)
  delta = programs.build(CONFIG, SIZES)["delta"]
  parts = plan.resident(delta)
  rows = 128 // 4  # 100 images in 32 lanes of 4 places
  parameters = programs.parameters(CONFIG, SIZES)["source"]
  assert parts["dataset (uint8 images, labels, ids)"] == rows * (144 + 4 + 4)
  assert parts["delta (int16)"] == rows * 144 * 2
  # Parameters and momentum, running mean and variance, the schedule's counter.
  state = 4 * (2 * parameters + 2 * (4 + 8 + 16 + 16) + 1)
  assert parts["networks with optimiser state"] == state
  rest = parts["order of the pass, masks, sums"] - rows * (4 + 1)
  assert 0 <= rest < 100  # sums, a key, a step size, an index
  found = delta.cost()
  # Momentum, counter and classifier are not read; delta is updated in place.
  read = sum(parts.values()) - 4 * (parameters + 1 + 17 * 4)
  assert read - 100 <= found.arguments < read + 200
  assert found.peak < found.arguments + found.temporaries + 200


def test_a_class_wise_delta_is_on_every_device(use_devices):
  use_devices(4)
  parts = plan.resident(programs.build(with_method(class_wise=True), SIZES)["delta"])
  assert parts["delta (int16)"] == 4 * 144 * 2


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_of_the_shapes_that_programs_state(use_devices, name):
  use_devices(2)
  program = programs.build(QUICK, SIZES)[name]
  abstract, concrete = program.abstract(), program.concrete(0)
  assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
  for shape, array in zip(jax.tree.leaves(abstract), jax.tree.leaves(concrete), strict=True):
    assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
    assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)


def test_devices_that_do_not_divide_a_batch_are_an_error(use_devices):
  use_devices(3)
  with pytest.raises(UserError, match=r"batch_size=16 is not divisible by 3 devices"):
    programs.build(CONFIG, SIZES)


def test_a_plan_refuses_the_batches_that_a_run_refuses(use_devices):
  use_devices(1)
  large = dataclasses.replace(CONFIG.victim_fit, batch_size=128)
  with pytest.raises(UserError, match=r"victim_fit.batch_size=128 is more than the 100 training"):
    programs.build(dataclasses.replace(CONFIG, victim_fit=large), SIZES)
  # The pass over delta pads its last batch: it takes one step, in a run as well.
  built = programs.build(with_method(batch_size=128), SIZES)["delta"]
  assert built.total == CONFIG.method.epochs * CONFIG.method.steps
  assert built.batch == 128
