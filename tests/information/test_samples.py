"""Notes about samples that make every estimate doubtful."""

import numpy as np

from miue_jax.information import samples


def test_rows_that_differ_in_the_sign_of_zero_repeat_each_other():
  x = np.random.default_rng(0).standard_normal((200, 8)) * 0  # zeros of both signs
  assert np.signbit(x).any()
  assert not np.signbit(x).all()
  assert samples.notes(x, x)[0].startswith("100 % of the rows of x repeat another row")
