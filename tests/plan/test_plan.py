"""Plans: what they add up, say and refuse."""

import math

import jax
import pytest
from plan_settings import CONFIG, QUICK, with_method

from miue_jax.plan import chips, plan, sizes, text
from miue_jax.settings.errors import UserError

OPTIONS = plan.Options(4, 2.5, 0.25, image_shape=(12, 12, 1), train_images=100, classes=4)


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


@pytest.fixture(scope="module")
def made():
  """A plan for four chips of data that nobody has, with a price."""
  with jax.set_mesh(None), pytest.MonkeyPatch.context() as patch:
    patch.setattr(plan, "_CALIBRATION_SECONDS", 0.0)
    return plan.make(QUICK, OPTIONS)


@pytest.mark.slow
def test_a_plan_adds_up(made):
  assert made.size == sizes.Sizes((12, 12, 1), 100, 20, 4)
  batches = {name: program.batch for name, program in made.programs.items()}
  assert batches == {"delta": 32, "source": 16, "victim": 8, "evaluate": 20}
  totals = {name: program.total for name, program in made.programs.items()}
  total = sum(totals[name] * made.costs[name].flops for name in totals)
  assert made.flops() == pytest.approx(total)
  assert made.flops(["delta"]) == totals["delta"] * made.costs["delta"].flops
  assert made.machine.startswith("1 x ")
  assert made.seconds() > made.seconds(["delta"]) > 0
  # Momentum stays on the device while delta moves, though the delta step does not read it.
  held = sum(made.resident["delta"].values()) + made.costs["delta"].temporaries
  assert made.peak >= held


@pytest.mark.slow
def test_a_plan_says_what_a_reader_asks(made):
  page = text.markdown(made)
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


@pytest.mark.slow
def test_a_plan_of_a_pattern_has_victims_alone():
  with jax.set_mesh(None), pytest.MonkeyPatch.context() as patch:
    patch.setattr(plan, "_CALIBRATION_SECONDS", 0.0)
    made = plan.make(with_method("lsp", QUICK), OPTIONS)
  assert made.resident == {}
  assert made.flops(made.poison) == 0
  page = text.markdown(made)
  assert "Dataset passes: 42, of which 0 make the poison" in page
  assert "The config computes in float32: set victim.dtype to bfloat16." in page


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (plan.Options(chips=0), "--chips is 0"),
    (plan.Options(share=1.5), "--share is 1.5"),
    (plan.Options(price=math.nan), "--price is nan"),
    (plan.Options(train_images=-1), "train_images"),
    (plan.Options(classes=1), "--classes is 1; it must be 0"),
    (plan.Options(classes=-1), "--classes is -1"),
  ],
)
def test_options_that_make_no_sense_are_errors(options, message):
  with pytest.raises(UserError, match=message):
    plan.make(CONFIG, options)


def test_more_chips_than_devices_can_be_made_is_an_error():
  offered = len(jax.devices("cpu"))
  with pytest.raises(UserError, match=f"but only {offered} CPU devices could be made"):
    plan.pod(offered + 1)
