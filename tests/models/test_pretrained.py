"""What a network takes from a pretrained one, and what it refuses."""

import jax
import numpy as np
import pytest

from miue_jax import models
from miue_jax.config import Model
from miue_jax.errors import UserError
from miue_jax.models import pretrained

MODEL = Model(name="small_cnn", width=4)


def _drawn(seed, classes, model=MODEL, shape=(8, 8, 3)):
  variables = models.init(models.build(model, classes, shape), jax.random.key(seed), shape)
  # Statistics that are not those of a fresh network.
  stats = jax.tree.map(lambda leaf: leaf + seed, variables["batch_stats"])
  return {"params": variables["params"], "batch_stats": stats}


def _assert_equal(one, two):
  assert jax.tree.structure(one) == jax.tree.structure(two)
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_same_task_takes_everything():
  trained = _drawn(1, 5)
  _assert_equal(pretrained.transplant(trained, _drawn(2, 5)), trained)


def test_another_task_keeps_its_own_classifier_alone():
  trained, fresh = _drawn(1, 5), _drawn(2, 3)
  result = pretrained.transplant(trained, fresh)
  _assert_equal(result["params"].pop("classifier"), fresh["params"]["classifier"])
  trained["params"].pop("classifier")
  _assert_equal(result, trained)


def test_arguments_are_left_alone():
  trained, fresh = _drawn(1, 5), _drawn(2, 3)
  pretrained.transplant(trained, fresh)
  _assert_equal(trained, _drawn(1, 5))
  _assert_equal(fresh, _drawn(2, 3))


@pytest.mark.parametrize(
  ("model", "shape", "message"),
  [
    (Model(name="small_cnn", width=6), (8, 8, 3), r"BatchNorm_0/mean is \(4,\) there, \(6,\) here"),
    (MODEL, (8, 8, 1), r"params/Conv_0/kernel is \(3, 3, 3, 4\) there, \(3, 3, 1, 4\) here"),
    (Model(name="resnet18", width=4), (8, 8, 3), "BasicBlock_0/.* is missing there"),
    (Model(name="linear"), (8, 8, 3), "BatchNorm_0/mean is .* there, missing here"),
  ],
)
def test_another_network_is_an_error(model, shape, message):
  with pytest.raises(UserError, match=message):
    pretrained.transplant(_drawn(1, 5), _drawn(2, 3, model, shape))


def test_a_linear_model_of_other_images_is_an_error_not_an_empty_transplant():
  linear = Model(name="linear")
  with pytest.raises(UserError, match=r"classifier/kernel is \(192, 5\) there, \(48, 3\) here"):
    pretrained.transplant(_drawn(1, 5, linear), _drawn(2, 3, linear, (4, 4, 3)))
