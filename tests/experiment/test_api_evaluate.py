"""`evaluate` on arrays: rows, refusals, resume, meshes and threads."""

import concurrent.futures
import contextlib
import io
import signal

import jax
import numpy as np
import pytest
from sides import make_dataset, make_poison

from miue_jax.experiment import api, victims
from miue_jax.experiment.results import KEY, Rows
from miue_jax.machine import processes, signals
from miue_jax.settings.errors import UserError

TINY = {"victims": ("linear",), "epochs": 3, "batch_size": 8, "learning_rate": 0.1}
TINY |= {"augment": "none", "progress": False}


@pytest.fixture
def arrays():
  """Clean and poisoned images, labels and test images, as a caller has them."""
  data = make_dataset()
  clean, y = data.train.images[:], data.train.labels
  images = {"clean": clean, "bright (half)": make_poison(data).apply(clean)}
  return images, y, (data.test.images[:], data.test.labels)


def plain(rows):
  """Returns rows without times."""
  return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@pytest.mark.slow
def test_every_combination_has_a_row(arrays, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rows = api.evaluate(*arrays, **TINY, defences=("none", "bits1"), seeds=range(2))
  assert [(row["method"], row["defence"], row["seed"]) for row in rows] == [
    (method, defence, seed)
    for seed in (0, 1)
    for defence in ("none", "bits1")
    for method in ("clean", "bright (half)")
  ]
  assert all(set(KEY) | {"test_accuracy", "curve"} <= set(row) for row in rows)
  assert {row["victim"] for row in rows} == {"linear"}
  assert rows[0]["test_accuracy"] > 90
  assert rows[0]["epochs"] == 3
  assert list(tmp_path.iterdir()) == []  # nothing on the disk


def test_the_arrays_may_be_of_any_kind(arrays):
  images, labels, (x_test, y_test) = arrays
  expected = plain(api.evaluate(*arrays, **TINY))
  gray = {name: jax.numpy.asarray(x[..., 0]) for name, x in images.items()}
  test = jax.numpy.asarray(x_test[..., 0]), y_test.astype(np.uint8)[:, None]
  assert plain(api.evaluate(gray, labels.astype(np.int64)[:, None], test, **TINY)) == expected


def test_the_same_call_resumes_and_a_later_one_adds_cells(arrays, tmp_path, monkeypatch):
  images, labels, test = arrays
  clean = {"clean": images["clean"]}
  first = api.evaluate(clean, labels, test, **TINY, workdir=tmp_path)
  trained = []
  train = victims.train
  monkeypatch.setattr(victims, "train", lambda *a, **k: trained.append(k["name"]) or train(*a, **k))
  assert api.evaluate(clean, labels, test, **TINY, workdir=tmp_path) == first
  assert trained == []
  both = api.evaluate(images, labels, test, **TINY, workdir=str(tmp_path), seeds=(0, 1))
  assert trained == ["bright (half) seed 0", "clean seed 1", "bright (half) seed 1"]
  assert both[0] == first[0]
  assert [row["method"] for row in both] == ["clean", "bright (half)"] * 2
  # Rows of other cells are left out.
  assert api.evaluate(clean, labels, test, **TINY, workdir=tmp_path) == first
  assert len(Rows(tmp_path / "results.jsonl").read()) == 4
  assert list((tmp_path / "tensorboard").iterdir())
  assert not list((tmp_path / "checkpoints" / "victims").iterdir())


def test_a_workdir_belongs_to_its_images_and_recipe(arrays, tmp_path):
  images, labels, test = arrays
  clean = {"clean": images["clean"]}
  api.evaluate(clean, labels, test, **TINY, workdir=tmp_path)
  with pytest.raises(UserError, match="training images of clean changed"):
    api.evaluate({"clean": images["clean"] // 2}, labels, test, **TINY, workdir=tmp_path)
  with pytest.raises(UserError, match="test images of arrays changed"):
    api.evaluate(clean, labels, (test[0] // 2, test[1]), **TINY, workdir=tmp_path)
  with pytest.raises(UserError, match=r"victim_fit\.epochs \(3 there, 4 here\)"):
    api.evaluate(clean, labels, test, **TINY | {"epochs": 4}, workdir=tmp_path)


def test_an_interrupted_call_continues(arrays, tmp_path, monkeypatch):
  expected = plain(api.evaluate(*arrays, **TINY))
  # The signal comes at the fifth look for one; a victim takes three epochs of four steps.
  looks = iter(range(100))
  with monkeypatch.context() as patched:
    patched.setattr(signals, "received", lambda: signal.SIGINT if next(looks) >= 5 else None)
    with pytest.raises(KeyboardInterrupt):
      api.evaluate(*arrays, **TINY, workdir=tmp_path)
  assert not (tmp_path / "results.jsonl").exists()
  assert plain(api.evaluate(*arrays, **TINY, workdir=tmp_path)) == expected


def test_two_calls_with_other_shapes(arrays):
  expected = plain(api.evaluate(*arrays, **TINY))
  rng = np.random.default_rng(0)
  large = rng.integers(0, 256, (30, 6, 5, 3), np.uint8)
  labels = np.arange(30) % 3
  (row,) = api.evaluate({"large": large}, labels, (large[:9], labels[:9]), **TINY)
  assert row["num_classes"] == 3
  assert plain(api.evaluate(*arrays, **TINY)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_the_mesh_of_the_caller_is_used_and_stays(arrays, monkeypatch, count, kind):
  devices = jax.devices()[:count]
  mesh = jax.make_mesh((count,), ("data",), axis_types=(kind,), devices=devices)
  used, train = [], victims.train

  def watched(*given, **named):
    used.append(jax.sharding.get_mesh().size)
    return train(*given, **named)

  monkeypatch.setattr(victims, "train", watched)
  config = dict(jax.config.values)
  with jax.set_mesh(mesh):
    rows = api.evaluate(*arrays, **TINY)
    assert jax.sharding.get_mesh() == mesh
  assert used == [count, count]
  assert dict(jax.config.values) == config
  # Without a mesh of the caller, all 8 devices divide the batch.
  alone = api.evaluate(*arrays, **TINY)
  assert used[2:] == [8, 8]
  assert jax.sharding.get_mesh().empty
  for row, other in zip(rows, alone, strict=True):
    np.testing.assert_allclose(row["curve"]["train_loss"], other["curve"]["train_loss"], atol=2e-3)


def test_a_mesh_with_another_axis_is_left_alone(arrays):
  mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    assert len(api.evaluate(*arrays, **TINY)) == 2
    assert jax.sharding.get_mesh() == mesh


def test_a_batch_that_the_mesh_does_not_divide_is_refused(arrays):
  mesh = jax.make_mesh((3,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh), pytest.raises(UserError, match="must be divisible by the 3 devices"):
    api.evaluate(*arrays, **TINY)


def test_a_thread_may_call(arrays):
  expected = plain(api.evaluate(*arrays, **TINY))
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    assert plain(pool.submit(api.evaluate, *arrays, **TINY).result()) == expected


def test_a_batch_larger_than_the_data_becomes_as_large(arrays):
  whole, large = ({**TINY, "batch_size": size} for size in (32, 500))
  assert plain(api.evaluate(*arrays, **large)) == plain(api.evaluate(*arrays, **whole))


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_progress_bars(arrays, progress, shown):
  output = io.StringIO()  # no terminal
  with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
    api.evaluate(*arrays, **TINY | {"progress": progress, "epochs": 1})
  assert ("clean seed 0" in output.getvalue()) == shown
  assert shown or output.getvalue() == ""


def replaced(arrays, **changes):
  images, labels, test = arrays
  named = {"images": images, "labels": labels, "test": test}
  return named | {key: change(named[key]) for key, change in changes.items()}


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"images": lambda x: x["clean"]}, "must be a dict of arrays by name"),
    ({"images": lambda x: {}}, "must be a dict of arrays by name"),
    ({"images": lambda x: {3: x["clean"]}}, "must be a dict of arrays by name"),
    ({"images": lambda x: {"..": x["clean"]}}, "has the name '..': choose another"),
    (
      {"images": lambda x: {"a": x["clean"] / 255}},
      r"'a' must be uint8 .*: convert with numpy.rint\(255",
    ),
    (
      {"images": lambda x: {"a": x["clean"].astype(int)}},
      r"'a' must be uint8 .*: convert with numpy.rint",
    ),
    ({"images": lambda x: {"a": x["clean"][0, 0]}}, r"uint8 of shape \[4, 1\]"),
    ({"images": lambda x: {"a": [[1], [1, 2]]}}, "'a' cannot be converted to a NumPy array"),
    ({"images": lambda x: {"a": np.tile(x["clean"], 2)}}, r"shape \[32, 4, 4, 2\]"),
    ({"images": lambda x: {"a": x["clean"][:9]}}, r"labels must be 9 integers.* \[32\]"),
    ({"images": lambda x: {"a": x["clean"][:, :3]}}, "both need"),
    ({"labels": lambda y: y / 1}, r"labels.astype\(int\)"),
    ({"labels": lambda y: y == 1}, r"bool of .*labels.astype\(int\)"),
    ({"labels": lambda y: y - 1}, "-1 to 0: number the classes"),
    ({"labels": lambda y: 0 * y}, "1.* of clean has 0 training"),
    ({"test": lambda t: (t[0], t[1] * 10**9)}, "no training image of class 2 but has label 10"),
    ({"test": lambda t: t[0]}, "must be a pair of arrays"),
    ({"test": lambda t: (t[0] / 255, t[1])}, "Test images must be uint8"),
    ({"test": lambda t: (t[0], t[1][:3])}, "Test labels must be 16 integers"),
  ],
)
def test_wrong_arrays_are_refused_with_one_sentence(arrays, changes, words):
  with pytest.raises(UserError, match=words) as error:
    api.evaluate(**replaced(arrays, **changes), **TINY)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("recipe", "words"),
  [
    ({"epohs": 1}, "Unknown setting epohs; did you mean epochs?"),
    ({"widht": 1}, "Unknown setting widht; did you mean width?"),
    ({"name": "linear"}, "Unknown setting name"),
    ({"epochs": 0}, "Setting epochs is 0"),
    ({"epochs": 1.5}, r"Setting epochs is 1\.5 \(float\)"),
    ({"victims": ("magic",)}, "Unknown model name 'magic'; choose one of .*resnet18"),
    ({"victims": ()}, "Setting victims"),
    ({"victims": "vgg11_bn"}, "4x4 pixels are too small for vgg11_bn"),
    ({"defences": ("magic",)}, "Unknown defence 'magic'"),
    ({"defences": ()}, "Setting defences"),
    ({"seeds": (-1,)}, "Setting seeds"),
    ({"seeds": (0, 0)}, "Setting seeds .*repetitions"),
    ({"dtype": "float16"}, "float16.*bfloat16"),
    ({"start_from": "absent.npz"}, r"absent\.npz"),
  ],
)
def test_wrong_settings_are_refused_with_one_sentence(arrays, recipe, words):
  with pytest.raises(UserError, match=words):
    api.evaluate(*arrays, **TINY | recipe)


def test_a_refused_call_does_not_occupy_its_workdir(arrays, tmp_path):
  with pytest.raises(UserError, match="magic"):
    api.evaluate(*arrays, **TINY | {"victims": ("magic",), "width": 3}, workdir=tmp_path)
  assert len(api.evaluate(*arrays, **TINY | {"epochs": 1}, workdir=tmp_path)) == 2


def test_a_loss_that_is_not_finite_is_an_error(arrays):
  with pytest.raises(UserError, match="clean seed 0, epoch 1 is not finite"):
    api.evaluate(*arrays, **TINY | {"learning_rate": 1e30})
  assert processes.count() == 1
