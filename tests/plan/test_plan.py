"""Plans against arithmetic by hand: steps, FLOPs, bytes, collectives, hours."""

import dataclasses
import math

import jax
import pytest

from miue_jax.machine import loops
from miue_jax.methods import alternating
from miue_jax.plan import chips, cost, plan, programs, sizes
from miue_jax.settings.config import Config, Data, Evaluate, Fit, Method, Model, Sgd
from miue_jax.settings.errors import UserError

CONFIG = Config(
  name="tiny",
  data=Data(source="npz"),
  model=Model(name="small_cnn", width=4),
  source=Sgd(batch_size=16),
  method=Method(batch_size=32, epochs=3, steps=5),
  victim=Model(name="small_cnn", width=4),
  victim_fit=Fit(batch_size=8, epochs=7),
  evaluate=Evaluate(conditions=("clean", "poison"), seeds=(0, 1, 2)),
)
SIZES = sizes.Sizes((12, 12, 1), 100, 600, 4)
LINEAR = Model(name="linear")  # compiled in no time
QUICK = dataclasses.replace(CONFIG, model=LINEAR, victim=LINEAR, devices=1)


@pytest.fixture(scope="module")
def costs():
  """Costs of the programs on one device, and of those that communicate on four."""
  found = {}
  for count in (1, 4):
    with jax.set_mesh(plan.pod(count)):
      found[count] = {name: programs.build(name, CONFIG, SIZES).cost() for name in programs.NAMES}
  return found


@pytest.mark.parametrize(("name", "problem"), [("ap", "has other steps"), ("qq", "is unknown")])
def test_a_method_without_these_steps_is_an_error(name, problem):
  config = dataclasses.replace(QUICK, method=Method(name=name))
  known = "em, em_mine, miue, miue_robust, rem, sem, tue"
  with pytest.raises(UserError, match=f"{name}' {problem}.* are of {known}"):
    programs.build("victim", config, SIZES)


def test_the_plan_counts_what_generation_schedules(use_devices):
  use_devices(1)
  method = dataclasses.replace(CONFIG.method, source_steps=2, epochs=4)
  config = dataclasses.replace(CONFIG, method=method)
  runs = programs.runs(config, SIZES)
  assert (runs["source"], runs["delta"]) == (4 * 2, 4 * 5 * 4)
  last = alternating.schedule(config, programs.generation_layout(config, SIZES.train))[-1]
  assert last.stop == runs["source"] + runs["delta"]
  # Two of six source batches are a third of a pass.
  assert programs.passes(config, SIZES) == (round(4 * (5 + 2 / 6)), 6 * 7)


def test_members_multiply_what_makes_the_poison_and_nothing_else(use_devices):
  use_devices(1)
  method = dataclasses.replace(CONFIG.method, members=3)
  one, three = (
    programs.runs(CONFIG, SIZES),
    programs.runs(dataclasses.replace(CONFIG, method=method), SIZES),
  )
  assert three == one | {"delta": 3 * one["delta"], "source": 3 * one["source"]}


def test_an_adversary_of_ten_steps_multiplies_the_work(use_devices):
  use_devices(1)

  def flops(name, step):
    config = dataclasses.replace(CONFIG, method=dataclasses.replace(CONFIG.method, name=name))
    return programs.build(step, config, SIZES).cost().flops

  # In forward passes: a sign step of either side is 2, a train step 3.
  assert flops("rem", "delta") / flops("em", "delta") == pytest.approx(11, rel=0.1)
  assert flops("sem", "delta") / flops("em", "delta") == pytest.approx(1, rel=0.1)
  assert flops("rem", "source") / flops("em", "source") == pytest.approx(23 / 3, rel=0.1)


def test_steps_and_passes_of_a_whole_run(use_devices):
  use_devices(1)
  assert programs.runs(CONFIG, SIZES) == {
    "delta": 3 * 5 * 4,  # 100 images in padded batches of 32
    "source": 3 * 6,  # whole batches of 16
    "victim": 6 * 7 * 12,  # 6 victims
    "evaluate": 6 * 8 * 2,  # after each of 7 epochs and at the end, 600 images by 512
  }
  assert programs.passes(CONFIG, SIZES) == (3 * 6, 6 * 7)
  # The paper's recipe has the 1,100 passes of its generation and 9 victims of 200 epochs.
  cifar = sizes.Sizes((32, 32, 3), 50_000, 10_000, 10)
  assert programs.passes(Config(), cifar) == (1100, 9 * 200)


def test_parts_of_a_batch_need_less_memory_where_loops_are_on_the_device(monkeypatch, use_devices):
  use_devices(1)
  monkeypatch.setattr(loops, "loops_on_device", lambda: True)
  temporaries = []
  for microbatch in (0, 8):
    method = dataclasses.replace(CONFIG.method, microbatch=microbatch)
    config = dataclasses.replace(CONFIG, method=method)
    temporaries.append(programs.build("delta", config, SIZES).cost().temporaries)
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


def test_flops_of_a_forward_pass_are_those_of_its_convolutions(costs):
  per_image = costs[1]["evaluate"].flops / 512
  expected = 2 * (convolutions(12, 1, 4) + 16 * 4)
  # Batch norm, ReLU and pooling come on top: some ten operations for each of 2,304 activations.
  assert expected < per_image < expected + 25 * 144 * 8


def test_training_computes_about_three_forward_passes_and_a_sign_step_two(costs):
  images = {"delta": 32, "source": 16, "victim": 8}
  forward = costs[1]["evaluate"].flops / 512
  ratio = {name: costs[1][name].flops / batch / forward for name, batch in images.items()}
  assert 1.7 < ratio["delta"] < 2.8
  assert 2.5 < ratio["source"] < 4
  assert 2.5 < ratio["victim"] < 5  # at batch 8 the update of parameters weighs more


@pytest.mark.parametrize("name", ["delta", "source"])
def test_flops_are_of_all_devices_together(costs, name):
  # What each device does for itself, such as the update of the parameters, counts four times.
  one, four = costs[1][name].flops, costs[4][name].flops
  assert one * 0.99 < four < one * 1.35


def test_one_device_communicates_nothing(costs):
  assert all(cost.sent == 0 for cost in costs[1].values())


def test_the_delta_step_gathers_features_labels_and_weights_alone(costs):
  gathered = [c for c in costs[4]["delta"].collectives if c.kind == "all-gather"]
  # 16 features, a label and a weight of 4 bytes for each of 32 images.
  assert sum(c.payload for c in gathered) == 32 * 4 * (16 + 1 + 1)
  assert max(c.payload for c in costs[4]["delta"].collectives) == 32 * 4 * 16
  assert {c.group for c in gathered} == {4}


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
  delta = programs.build("delta", CONFIG, SIZES)
  parts = list(plan.resident(delta).values())
  rows = 128 // 4  # 100 images in 32 lanes of 4 places
  parameters = programs.parameters(CONFIG, SIZES)["source"]
  assert parts[0] == rows * (144 + 4 + 4)
  assert parts[1] == rows * 144 * 2
  # Parameters and momentum, running mean and variance, the schedule's counter.
  assert parts[2] == 4 * (2 * parameters + 2 * (4 + 8 + 16 + 16) + 1)
  assert parts[3] == rows * (4 + 1)
  found = delta.cost()
  # Nothing else but sums, keys and numbers goes in; delta is updated in place.
  # Momentum, counter and classifier are not read.
  read = sum(parts) - 4 * (parameters + 1 + 17 * 4)
  assert read <= found.arguments < read + 200
  assert found.peak < found.arguments + found.temporaries + 200


def test_a_class_wise_delta_lies_on_every_device(use_devices):
  use_devices(4)
  config = dataclasses.replace(CONFIG, method=dataclasses.replace(CONFIG.method, class_wise=True))
  parts = plan.resident(programs.build("delta", config, SIZES))
  assert parts["delta (int16)"] == 4 * 144 * 2


@pytest.mark.parametrize("name", programs.NAMES)
def test_programs_take_what_they_say(use_devices, name):
  use_devices(2)
  program = programs.build(name, QUICK, SIZES)
  abstract, concrete = program.abstract(), program.concrete(0)
  assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
  for shape, array in zip(jax.tree.leaves(abstract), jax.tree.leaves(concrete), strict=True):
    assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
    assert shape.sharding.is_equivalent_to(array.sharding, array.ndim)


HLO = """
  %a = f32[8,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %b = (f32[3], /*index=1*/bf16[2,2]{1,0:T(8)}) all-reduce(%y, %z), replica_groups={{0,1},{2,3}}
  %c = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={}, dimensions={0}
  %d = f32[16]{0} all-gather-done(%c)
  %e = pred[5]{0} reduce-scatter(%x), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  %f = (u8[7]{0}, u8[7]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %g = f32[4]{0} all-reduce-start(%x), replica_groups={{0}}, to_apply=%sum
  ROOT %h = (f32[4]{0}, f32[4]{0}) tuple(%all-reduce.1, %all-gather.2)
"""


def test_collectives_are_read_from_hlo():
  found = [(c.kind, c.payload, c.group, c.sent) for c in cost.collectives(HLO, 8)]
  assert found == [
    ("all-gather", 512, 4, 512 * 3 / 4),
    ("all-reduce", 12 + 8, 2, 20.0),
    ("all-gather", 64, 8, 56.0),
    ("reduce-scatter", 5, 8, 35.0),
    ("collective-permute", 7, 8, 7.0),
    ("all-reduce", 16, 1, 0.0),
  ]


def test_hours_follow_from_peak_share_and_number():
  chip = chips.of_kind("NVIDIA H200")
  # 989.4e12 * 0.5 * 8 FLOP/s for two hours.
  flops = 989.4e12 * 0.5 * 8 * 7200
  assert plan.hours(flops, chip, 8, 0.5) == pytest.approx(2)
  assert chips.of_kind("cpu") is None
  assert chips.of_kind("TPU v5").name == "TPU v5p"


def test_seconds_count_one_compilation_of_what_runs():
  timings = {"delta": plan.Timing(0.5, 3.0), "source": plan.Timing(0.25, 2.0)}
  assert plan.seconds(timings, {"delta": 10, "source": 0}) == 8
  assert plan.seconds(timings, {"delta": 10, "source": 4}) == 11


def test_known_sizes_need_no_data():
  cifar = Data(source="tfds", name="cifar10")
  assert sizes.known(cifar) == sizes.Sizes((32, 32, 3), 50_000, 10_000, 10)
  resized = dataclasses.replace(cifar, size=48, max_train=5000)
  assert sizes.known(resized) == sizes.Sizes((48, 48, 3), 5000, 10_000, 10)
  assert sizes.known(dataclasses.replace(cifar, train_split="train[:1%]")) is None
  assert sizes.known(dataclasses.replace(cifar, classes=("cat", "dog"))) is None
  assert sizes.known(Data(source="folder", path="somewhere")) is None


@pytest.mark.parametrize("data", [Data(), Data(size=8, max_train=900, test_fraction=0.1)])
def test_known_sizes_are_those_that_reading_finds(data):
  assert sizes.known(data) == sizes.read(data)


@pytest.fixture(scope="module")
def made():
  """A plan for four chips of data that nobody has, with a price."""
  options = plan.Options(4, 2.5, 0.25, image_shape=(12, 12, 1), train_images=100, classes=4)
  with jax.set_mesh(None), pytest.MonkeyPatch.context() as patch:
    patch.setattr(plan, "_CALIBRATION_SECONDS", 0.0)
    return plan.make(QUICK, options)


def test_a_plan_adds_up(made):
  assert made.size == sizes.Sizes((12, 12, 1), 100, 20, 4)
  assert made.batches == {"delta": 32, "source": 16, "victim": 8, "evaluate": 20}
  total = sum(made.runs[name] * made.costs[name].flops for name in programs.NAMES)
  assert made.flops() == pytest.approx(total)
  assert made.flops(["delta"]) == made.runs["delta"] * made.costs["delta"].flops
  assert made.machine.startswith("1 x ")
  assert made.seconds() > made.seconds(["delta"]) > 0
  # Momentum stays on the device while delta moves, though the delta step does not read it.
  assert made.peak >= sum(made.resident.values()) + made.costs["delta"].temporaries


def test_a_plan_says_what_a_reader_asks(made):
  page = plan.text(made)
  assert "100 training and 20 test images of 12x12x1, 4 classes" in page
  assert "Dataset passes: 60, of which 18" in page
  rows = {
    line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if "|" in line
  }
  assert {f"4 x {chip.name}" for chip in chips.CHIPS} <= rows.keys()
  *_, spent, price = rows["4 x TPU v5e"]
  expected = made.flops() / (4 * 197e12 * 0.25) / 3600
  assert float(spent) == pytest.approx(expected, rel=0.05)
  assert float(price) == pytest.approx(expected * 4 * 2.5, rel=0.05)
  assert "25 % of the bfloat16 peak" in page


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (plan.Options(chips=0), "chips is 0"),
    (plan.Options(share=1.5), "share is 1.5"),
    (plan.Options(price=math.nan), "price is nan"),
    (plan.Options(train_images=-1), "train_images"),
  ],
)
def test_options_that_make_no_sense_are_errors(options, message):
  with pytest.raises(UserError, match=message):
    plan.report(CONFIG, options)


def test_devices_that_do_not_divide_a_batch_are_an_error(use_devices):
  use_devices(3)
  with pytest.raises(UserError, match=r"source.batch_size is 16, which 3 devices do not divide"):
    programs.build("source", CONFIG, SIZES)


def test_more_chips_than_devices_can_be_made_is_an_error():
  offered = len(jax.devices("cpu"))
  with pytest.raises(UserError, match=f"but only {offered} CPU devices could be made"):
    plan.pod(offered + 1)
