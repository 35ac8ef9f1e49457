"""Pictures that are looked at in place of all."""

import pytest

from miue_jax.owner import load


@pytest.mark.parametrize(
  ("count", "most", "expected"),
  [(3, 5, [0, 1, 2]), (7, 5, [0, 1, 2, 4, 5]), (20, 4, [0, 5, 10, 15]), (0, 4, [])],
)
def test_some_are_spread_evenly(count, most, expected):
  assert load.some(range(count), most) == expected
