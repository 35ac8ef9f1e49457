"""Tests that an archive is protected as its images are, and comes back bit for bit."""

import contextlib
import io

import numpy as np
import pytest

from miue_jax.owner import private, protect, protect_archive, published
from miue_jax.owner.request import Request
from miue_jax.owner.restore import restore
from miue_jax.settings.errors import UserError

pytestmark = pytest.mark.usefixtures("quick")


def toy(path, shape=(12, 14), more=0):
  """Writes an archive of two classes, as MedMNIST does; the second image is there twice."""
  arrays = {}
  for part, count in {"train": 16 + more, "val": 4, "test": 6}.items():
    rng = np.random.default_rng(count - more * (part == "train"))
    labels = (np.arange(count) % 2).astype(np.uint8)[:, None]
    noise = rng.integers(0, 100, (count, *shape))
    base = 60 + 70 * labels.reshape(-1, *[1] * len(shape))
    arrays |= {f"{part}_images": (base + noise).astype(np.uint8), f"{part}_labels": labels}
  arrays["train_images"][3] = arrays["train_images"][1]
  np.savez(path, **arrays)
  return arrays


def run(path, out, **changes):
  request = Request(path, out, **{"seed": 1} | changes)
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    protect_archive.protect_archive(request, print)
  return printed.getvalue()


def read(path):
  with np.load(path) as found:
    return dict(found)


def back(out, folder, key=None):
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    whole = restore(out, folder, key, None)
  return whole, printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12, 14), (10, 10, 3)])
def test_every_image_is_changed_within_the_budget_and_comes_back(tmp_path, shape):
  original, out = toy(tmp_path / "toy.npz", shape), tmp_path / "out"
  said = run(tmp_path / "toy.npz", out)
  assert "Protect 26 pictures with strength medium into" in said
  rows = tmp_path / "out.private" / "rows" / "toy.npz"
  assert f"Messages name images by their files in {rows}." in said
  assert len(list(rows.rglob("*.png"))) == 26
  assert [path.name for path in out.iterdir()] == ["toy.npz"]
  public = read(out / "toy.npz")
  assert list(public) == list(original)
  for name, array in original.items():
    assert (public[name].dtype, public[name].shape) == (array.dtype, array.shape)
    if name.endswith("labels"):
      assert (public[name] == array).all()
    else:
      change = np.abs(public[name].astype(int) - array).reshape(len(array), -1).max(axis=1)
      assert ((change > 0) & (change <= 8)).all()
  whole, said = back(out, tmp_path / "back")
  assert whole
  assert "26 of 26 original images" in said
  restored = read(tmp_path / "back" / "toy.npz")
  assert all((restored[name] == array).all() for name, array in original.items())
  assert back(out, tmp_path / "back")[0]  # It is there already.


@pytest.mark.slow
def test_an_image_that_moves_to_another_part_gets_no_second_perturbation(tmp_path):
  original, out = toy(tmp_path / "toy.npz", (10, 10, 3)), tmp_path / "out"
  run(tmp_path / "toy.npz", out)
  before = read(out / "toy.npz")
  for name in ("images", "labels"):
    val, train = original[f"val_{name}"], original[f"train_{name}"]
    original |= {f"train_{name}": np.concatenate([train, val[:1]]), f"val_{name}": val[1:]}
  np.savez(tmp_path / "toy.npz", **original)
  run(tmp_path / "toy.npz", out)
  after = read(out / "toy.npz")
  assert (after["train_images"][-1] == before["val_images"][0]).all()
  assert (after["train_images"][:-1] == before["train_images"]).all()
  assert back(out, tmp_path / "back")[0]


@pytest.mark.slow
def test_images_are_known_by_their_pixels(tmp_path):
  original, out = toy(tmp_path / "toy.npz"), tmp_path / "out"
  run(tmp_path / "toy.npz", out)
  public, order = read(out / "toy.npz"), np.random.default_rng(0).permutation(16)[:9]
  images = public["train_images"][order]
  images[2, 0, 0] ^= 1
  np.savez(tmp_path / "part.npz", x_train=images, y_train=public["train_labels"][order, 0])
  whole, said = back(tmp_path / "part.npz", tmp_path / "back", tmp_path / "out.key")
  assert not whole
  assert "8 of 9 original images" in said
  assert "left as they were published: x_train[2]." in said
  restored = read(tmp_path / "back" / "part.npz")["x_train"]
  wanted = original["train_images"][order]
  assert (np.delete(restored, 2, axis=0) == np.delete(wanted, 2, axis=0)).all()
  assert (restored[2] == images[2]).all()


@pytest.mark.long
def test_interrupted_work_continues_and_new_images_are_added(tmp_path, monkeypatch):
  original, out = toy(tmp_path / "toy.npz"), tmp_path / "out"
  run(tmp_path / "toy.npz", tmp_path / "whole")

  def interrupted(*arguments):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(protect.proof, "prove", interrupted)
    with pytest.raises(KeyboardInterrupt):
      run(tmp_path / "toy.npz", out)
  assert not (out / "toy.npz").exists()
  run(tmp_path / "toy.npz", out)
  first = (out / "toy.npz").read_bytes()
  assert first == (tmp_path / "whole" / "toy.npz").read_bytes()
  toy(tmp_path / "toy.npz", more=2)
  grown = read(tmp_path / "toy.npz") | {name: original[name] for name in ("val_images",)}
  for name in ("train_images", "train_labels"):
    grown[name] = np.concatenate([grown[name][-2:], original[name]])
  np.savez(tmp_path / "toy.npz", **grown)
  assert "Published already, and left unchanged: 26 pictures; new: 2." in run(
    tmp_path / "toy.npz", out
  )
  public = read(out / "toy.npz")
  assert (public["train_images"][2:] == read(tmp_path / "whole" / "toy.npz")["train_images"]).all()
  assert back(out, tmp_path / "back")[0]
  assert (read(tmp_path / "back" / "toy.npz")["train_images"] == grown["train_images"]).all()


@pytest.mark.slow
def test_audits_and_other_pictures_find_what_an_archive_left(tmp_path):
  toy(tmp_path / "toy.npz")
  out = tmp_path / "out"
  run(tmp_path / "toy.npz", out)
  with published.opened(out, None, None, None) as pairs:
    assert len(pairs.folders.entries) == 26
    originals, changed = pairs.sets("the whole picture")
  assert (originals != changed).any(axis=(1, 2, 3)).all()
  (tmp_path / "toy.npz").rename(tmp_path / "other.npz")
  with pytest.raises(UserError, match=r"belongs to pictures other than other\.npz"):
    run(tmp_path / "other.npz", out)
  with pytest.raises(UserError, match="is that of an archive"):
    protect.protect(Request(tmp_path / "photos", out), print)
  rows = private.Private(private.path_of(out)).rows / "toy.npz"
  (rows / "val" / "0" / "strange.png").write_bytes(b"junk")
  (tmp_path / "other.npz").rename(tmp_path / "toy.npz")
  assert "new: 0." in run(tmp_path / "toy.npz", out)


@pytest.mark.parametrize("kept", [False, True])
def test_no_copy_of_the_originals_is_left_after_a_no(tmp_path, kept):
  toy(tmp_path / "toy.npz")
  store = private.Private(private.path_of(tmp_path / "out"))
  if kept:
    store.root.mkdir()
    (store.root / "notes.txt").touch()

  def refuse(question):
    assert len(list(store.rows.rglob("*.png"))) == 26
    raise SystemExit(question)

  request = Request(tmp_path / "toy.npz", tmp_path / "out")
  with pytest.raises(SystemExit, match="Protect 26 pictures"):
    protect_archive.protect_archive(request, refuse)
  left = {"toy.npz"} | ({"out.private", "out.private/notes.txt"} if kept else set())
  assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == left


def test_options_for_folders_are_refused(tmp_path):
  toy(tmp_path / "toy.npz")
  for options in ({"format": "webp"}, {"keep_metadata": True}, {"drop_author": True}):
    with pytest.raises(UserError, match="leave --labels"):
      run(tmp_path / "toy.npz", tmp_path / "out", **options)
  assert not (tmp_path / "out.private").exists()
