"""Tests the transfer of weights from a pretrained network, and its refusals."""

import chex
import jax
import numpy as np
import pytest

from miue_jax import models
from miue_jax.settings.config import Model
from miue_jax.settings.errors import UserError
from miue_jax.train import pretrained

MODEL = Model(name="small_cnn", width=4)


def _drawn(seed, classes, model=MODEL, shape=(8, 8, 3)):
  variables = models.init(models.build(model, classes, shape), jax.random.key(seed), shape)
  # Statistics differ from those of a fresh network.
  stats = jax.tree.map(lambda leaf: leaf + seed, variables["batch_stats"])
  return {"params": variables["params"], "batch_stats": stats}


def test_the_same_task_takes_all_weights():
  trained = _drawn(1, 5)
  chex.assert_trees_all_equal(pretrained.transplant(trained, _drawn(2, 5)), trained)


def test_another_task_keeps_only_its_classifier():
  trained, fresh = _drawn(1, 5), _drawn(2, 3)
  result = pretrained.transplant(trained, fresh)
  chex.assert_trees_all_equal(result["params"].pop("classifier"), fresh["params"]["classifier"])
  trained["params"].pop("classifier")
  chex.assert_trees_all_equal(result, trained)


def test_arguments_are_unchanged():
  trained, fresh = _drawn(1, 5), _drawn(2, 3)
  pretrained.transplant(trained, fresh)
  chex.assert_trees_all_equal(trained, _drawn(1, 5))
  chex.assert_trees_all_equal(fresh, _drawn(2, 3))


@pytest.mark.long
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


def test_saved_weights_are_loaded(tmp_path):
  trained = _drawn(1, 5)
  pretrained.save(trained, tmp_path / "weights.npz")
  chex.assert_trees_all_equal(pretrained.load(tmp_path / "weights.npz"), trained)
  assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_a_network_without_batch_norm_has_no_statistics(tmp_path):
  trained = _drawn(1, 5, Model(name="linear"))
  assert trained["batch_stats"] == {}
  pretrained.save(trained, tmp_path / "weights.npz")
  chex.assert_trees_all_equal(pretrained.load(tmp_path / "weights.npz"), trained)


_CLASSIFIER = {"params/classifier/kernel": np.ones((4, 2)), "params/classifier/bias": np.ones(2)}


@pytest.mark.parametrize(
  ("arrays", "problem"),
  [
    ({"x": np.ones(3)}, "params/classifier/kernel or .* is missing"),
    ({**_CLASSIFIER, "x_train": np.ones(3)}, "x_train is not a weight"),
    ({**_CLASSIFIER, "params/a": np.array([1, 2])}, "params/a does not hold finite"),
    ({**_CLASSIFIER, "params/a": np.array([np.nan])}, "params/a does not hold finite"),
    ({**_CLASSIFIER, "params/classifier/bias/a": np.ones(2)}, "is inside another array"),
    ({**_CLASSIFIER, "params/a": np.array([{}], object)}, "[Oo]bject"),
    ({**_CLASSIFIER, "params/a": np.array([1e300])}, "params/a does not hold finite"),
    ({**_CLASSIFIER, "params/classifier/bias": np.ones(3)}, r"bias is \(3,\)"),
    ({**_CLASSIFIER, "params/classifier/bias": np.float32(1)}, r"bias is \(\)"),
    ({**_CLASSIFIER, "params/classifier": np.ones(2)}, "is an array and holds arrays"),
    ({"params/classifier": np.ones(2), **_CLASSIFIER}, "is inside another array"),
    ({**_CLASSIFIER, "params" + "/a" * 1000: np.ones(2)}, r"params/a/a.* is not a weight"),
  ],
)
def test_a_file_with_other_content_is_an_error(tmp_path, arrays, problem):
  path = tmp_path / "weights.npz"
  np.savez(path, **arrays)
  found = f"weights.npz (does not hold weights|cannot be read) .*{problem}.*mode=pretrain"
  with pytest.raises(UserError, match=found):
    pretrained.load(path)


def test_a_missing_or_broken_file_is_an_error(tmp_path):
  path = tmp_path / "weights.npz"
  with pytest.raises(UserError, match=r"There is no file .*mode=pretrain"):
    pretrained.load(path)
  path.write_bytes(b"weights")
  with pytest.raises(UserError, match=r"is not an \.npz file"):
    pretrained.load(path)
  pretrained.save(_drawn(1, 5), path)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match=r"weights\.npz"):
    pretrained.load(path)
