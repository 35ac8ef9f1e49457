"""Bounds and microbatches against arithmetic by hand."""

import dataclasses

import pytest
from plan_settings import CONFIG, SIZES

from miue_jax.plan import roofline, targets
from miue_jax.plan.cost import Collective, Cost
from miue_jax.plan.plan import Options, Plan

V5E = targets.parse("v5e:2x2")
GATHER = Collective("all-gather", ("f32[8]",), 4_000_000, 4)


@pytest.mark.parametrize(
  ("flops", "moved", "collectives", "by", "seconds"),
  [
    (4 * 197e12, 0, (), "arithmetic", 1.0),
    (4 * 197e12, 1638 * 10**9, (), "memory", 2.0),
    (0, 819, (GATHER,), "link", 4_000_000 * 3 / 4 / 200e9),
  ],
)
def test_the_longest_of_three_times_bounds_a_step(flops, moved, collectives, by, seconds):
  bound = roofline.bound(Cost(flops, 0, 0, 0, collectives, moved), V5E)
  assert (bound.by, bound.seconds) == (by, pytest.approx(seconds))


def test_a_device_of_two_has_half_of_the_chip():
  target = targets.parse("tpu7x:2x2x1")
  assert (target.chips, target.devices) == (4, 8)
  cost = Cost(4 * 2307e12, 0, 0, 0, (), 7380 * 10**9)
  assert roofline.bound(cost, target).arithmetic == pytest.approx(1)
  assert roofline.bound(cost, target).memory == pytest.approx(2)


def plan_of(cost):
  costs = {"delta": cost}
  return Plan(CONFIG, Options(), SIZES, {}, costs, {}, "", {}, "", V5E)


def test_a_microbatch_is_proposed_where_the_memory_is_too_small():
  # 16 GB hold 4 GB and three eighths of 32 GB; parts of 32 images that 4 chips divide: 16, 8, 4.
  tight = Cost(1.0, 4 * 10**9, 32 * 10**9, 36 * 10**9, (), fits=False)
  assert roofline.microbatch(plan_of(tight)) == 8
  assert roofline.microbatch(plan_of(dataclasses.replace(tight, fits=True))) is None
  full = dataclasses.replace(tight, arguments=17 * 10**9)
  assert roofline.microbatch(plan_of(full)) is None
