"""Features, labels and options that are refused, and notes about samples."""

import numpy as np
import pytest

from miue_jax import information
from miue_jax.information import samples
from miue_jax.settings.errors import UserError


def test_rows_that_differ_in_the_sign_of_zero_repeat_each_other():
  x = np.random.default_rng(0).standard_normal((200, 8)) * 0  # zeros of both signs
  assert np.signbit(x).any()
  assert not np.signbit(x).all()
  assert samples.notes(x, x)[0].startswith("100 % of the rows of x repeat another row")


PAIR = np.random.default_rng(0).standard_normal((2, 200, 3))


@pytest.mark.parametrize(
  ("estimator", "options", "message"),
  [
    (["histogram"], {}, r"estimator is \['histogram'\]: set it to one of"),
    ("histogram", {"bins": 2.5}, r"bins is 2\.5: use at least 2, an integer"),
    ("histogram", {"bins": "8"}, "bins is '8': use at least 2, an integer"),
    ("knn", {"neighbours": 2.5}, r"neighbours is 2\.5 for 200 samples"),
    ("knn", {"neighbours": "3"}, "neighbours is '3' for 200 samples"),
    ("mine", {"critic_steps": 2.5}, r"critic_steps is 2\.5: use at least 1, an integer"),
    ("histogram", {"projections": True}, "projections is True: use at least 1, an integer"),
    ("histogram", {"confidence": "a"}, "confidence 'a': .* a number between 0 and 1"),
    ("histogram", {"bootstrap": "2"}, "bootstrap '2', null 20, .* integers, 0 or at least 2"),
  ],
)
def test_options_of_other_types_are_refused(estimator, options, message):
  with pytest.raises(UserError, match=message):
    information.mutual_information(*PAIR, estimator, **options)


MEASURES = (
  information.bound,
  information.class_distance,
  information.covariance_term,
  information.linear_separability,
)


@pytest.mark.parametrize("measure", [information.mutual_information, *MEASURES])
def test_lists_of_different_lengths_are_refused(measure):
  with pytest.raises(UserError, match="rows have different lengths"):
    measure([[1.0, 2.0], [3.0]], [0, 1])


class OfAnotherLibrary:
  """Raises an error when NumPy reads it, as PyTorch's tensors with gradients do."""

  def __array__(self, dtype=None, copy=None):
    raise RuntimeError("use tensor.detach()")


@pytest.mark.parametrize("measure", [information.mutual_information, *MEASURES])
def test_arrays_that_numpy_cannot_read_are_refused(measure):
  with pytest.raises(UserError, match=r"to a NumPy array: .*\(use tensor\.detach\(\)\)"):
    measure(OfAnotherLibrary(), [0, 1])


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", [float, str])
def test_labels_that_are_not_integers_are_refused(measure, kind):
  labels = (np.arange(200) % 2).astype(kind)
  with pytest.raises(UserError, match=f"Labels are {labels.dtype}: make them integers"):
    measure(PAIR[0], labels)


@pytest.mark.parametrize("measure", [information.class_distance, information.linear_separability])
def test_empty_inputs_are_refused(measure):
  with pytest.raises(UserError, match="they are empty"):
    measure(PAIR[0, :0], [])
