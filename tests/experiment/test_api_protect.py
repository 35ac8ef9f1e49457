"""The function `protect`: arrays in, a poison out, and nothing else changed."""

import jax
import numpy as np
import pytest

import miue_jax as mj
from miue_jax.machine import meshes

COUNT, CLASSES = 24, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, 8, 8, 1), np.uint8)
LABELS = np.arange(COUNT) % CLASSES
# Large steps, so that one epoch moves pixels by whole levels.
QUICK = {
  "epochs": 1,
  "steps": 1,
  "batch_size": 8,
  "step_size_start": 2 / 255,
  "step_size_end": 2 / 255,
  "model": {"name": "linear"},
  "source": {"batch_size": 8},
  "progress": False,
}


def protect(images=IMAGES, labels=LABELS, method="miue", **changes):
  return mj.protect(images, labels, method, **(QUICK | changes))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
  """Runs every test in an empty folder."""
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  return tmp_path / "here"


def test_apply_and_restore_are_exact_and_within_the_budget(empty_folder):
  poison = protect()
  public = poison.apply(IMAGES)
  change = public.astype(int) - IMAGES
  assert 0 < np.abs(change).max() <= 8
  np.testing.assert_array_equal(poison.restore(public), IMAGES)
  assert poison.manifest["method"] == "miue"
  assert not list(empty_folder.iterdir())  # nothing on the disk


@pytest.mark.slow
def test_the_same_seed_gives_the_same_poison_and_another_one_another():
  first, again, other = protect(), protect(), protect(seed=1)
  np.testing.assert_array_equal(first.delta, again.delta)
  assert (first.delta != other.delta).any()


@pytest.mark.slow
def test_arrays_of_other_ranks_and_libraries_are_accepted():
  expected = protect().delta
  flat = protect(IMAGES[..., 0], LABELS[:, None])
  np.testing.assert_array_equal(flat.delta, expected)
  assert flat.apply(IMAGES[..., 0]).shape == (COUNT, 8, 8)
  on_device = protect(jax.numpy.asarray(IMAGES), jax.numpy.asarray(LABELS))
  np.testing.assert_array_equal(on_device.delta, expected)


@pytest.mark.slow
def test_a_second_call_may_have_other_shapes():
  protect()
  colour = RNG.integers(0, 256, (30, 12, 10, 3), np.uint8)
  assert protect(colour, np.arange(30) % 5, batch_size=10).delta.shape == colour.shape


@pytest.mark.long
def test_the_mesh_and_the_configuration_of_the_caller_stay():
  precision = jax.config.jax_default_matmul_precision
  protect()
  assert jax.sharding.get_mesh().empty
  mesh = meshes.make(2, ())
  with jax.set_mesh(mesh):
    protect()
    assert jax.sharding.get_mesh() == mesh
  assert jax.config.jax_default_matmul_precision == precision


@pytest.mark.slow
def test_one_and_two_devices_agree_up_to_rounding():
  deltas = []
  for count in (1, 2):
    with jax.set_mesh(meshes.make(count, ())):
      deltas.append(protect().delta.astype(int))
  assert np.mean(deltas[0] != deltas[1]) < 0.02


@pytest.mark.long
def test_batches_larger_than_the_data_become_as_large_as_the_data():
  poison = protect(batch_size=512, source={"batch_size": 128})
  method = poison.manifest["config"]["method"]
  assert method["batch_size"] == method["source"]["batch_size"] == COUNT


def test_settings_of_a_method_can_be_given_as_an_object():
  settings = mj.methods.random.Settings(epsilon=4 / 255)
  poison = mj.protect(IMAGES, LABELS, "random", settings=settings, progress=False)
  assert poison.manifest["config"]["method"]["epsilon"] == 4 / 255
  wider = mj.protect(IMAGES, LABELS, "random", settings=settings, epsilon=6 / 255, progress=False)
  assert wider.manifest["epsilon"] == 6 / 255


def test_a_workdir_keeps_the_poison_and_belongs_to_one_call(tmp_path):
  first = protect(workdir=tmp_path / "run")
  assert (tmp_path / "run" / "poison" / "manifest.json").exists()
  stamp = (tmp_path / "run" / "poison" / "delta.npy").stat().st_mtime_ns
  again = protect(workdir=tmp_path / "run")
  np.testing.assert_array_equal(first.delta, again.delta)
  assert (tmp_path / "run" / "poison" / "delta.npy").stat().st_mtime_ns == stamp
  with pytest.raises(mj.UserError, match="seed"):
    protect(workdir=tmp_path / "run", seed=1)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"images": IMAGES / 255}, r"convert with numpy.rint\(255"),
    ({"images": IMAGES.astype(np.int64)}, "must be uint8"),
    ({"images": IMAGES[0, :, :, 0]}, "must be uint8"),
    ({"images": np.repeat(IMAGES, 2, axis=3)}, r"shape \[24, 8, 8, 2\]"),
    ({"labels": LABELS[:5]}, "24 integers"),
    ({"labels": LABELS + 0.5}, "24 integers"),
    ({"labels": LABELS - 1}, "number the classes"),
    ({"labels": np.zeros(COUNT, int)}, "one class"),
    ({"labels": LABELS * 10**8}, "no training image of class 1 but has label 200000000"),
    ({"method": "magic"}, "no method 'magic'; choose one of ap,"),
    ({"name": "em"}, "name='em' differs from method='miue'"),
    ({"epsilon": 0.0}, r"Setting epsilon is 0\.0; it must be in \(0, 127/255\]"),
    ({"epochs": 0}, "Setting epochs is 0; it must be at least 1"),
    ({"epohs": 3}, "Unknown setting epohs; did you mean epochs"),
    ({"source": {"batchsize": 3}}, r"source\.batchsize; did you mean source\.batch_size"),
    ({"model": {"name": "magic"}}, "'magic'"),
    ({"model": "small_cnn"}, "model is 'small_cnn'.*; it must be a dict of settings that differ"),
    ({"only_class": 7}, "classes 0..2"),
    ({"seed": -1}, "Setting seed is -1"),
    ({"workdir": ""}, "--workdir= is no path: name a folder"),
    ({"workdir": 3}, "--workdir=3 is no path: name a folder"),
    ({"settings": mj.methods.em.Settings()}, "method 'miue' takes"),
  ],
)
def test_mistakes_are_one_sentence(arguments, words, empty_folder):
  with pytest.raises(mj.UserError, match=words) as caught:
    protect(**arguments)
  assert "\n" not in str(caught.value)
  assert not list(empty_folder.iterdir())


def test_every_public_name_exists_and_nothing_else():
  for name in mj.__all__:
    assert getattr(mj, name) is not None
  assert dir(mj) == sorted(mj.__all__)
  with pytest.raises(AttributeError, match="magic"):
    mj.magic  # noqa: B018
