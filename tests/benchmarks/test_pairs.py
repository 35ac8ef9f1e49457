"""Tests the table about attackers who have pairs of clean and protected images."""

import dataclasses

import numpy as np
import pytest

import miue_jax as mj
from benchmarks import pairs


def stored(folder, seed, rows=()):
  """An archive of images in two classes, and a poison of its first ones or of rows."""
  rng = np.random.default_rng(seed)
  labels = np.arange(32) % 2
  images = np.clip(rng.normal(90 + 60 * labels[:, None, None, None], 20, (32, 8, 8, 3)), 0, 255)
  images = images.astype(np.uint8)
  folder.mkdir()
  content = {"x_train": images, "y_train": labels[:, None]}
  np.savez(folder / "data.npz", **content, x_test=images[:8], y_test=labels[:8])
  chosen = list(rows or range(24))
  poison = mj.protect(images[chosen], labels[chosen], method="lsp")
  if rows:
    poison = dataclasses.replace(poison, manifest=poison.manifest | {"source_rows": chosen})
  poison.save(folder / "poison")
  return folder / "data.npz", folder / "poison"


def test_pairs_are_the_images_that_a_poison_was_made_for(tmp_path):
  rows = 31, 3, 8, 0, 12, 7
  archive, poison = stored(tmp_path / "mine", 0, rows)
  found, tested = pairs.read(archive, poison)
  with np.load(archive) as content:
    np.testing.assert_array_equal(found.clean, content["x_train"][list(rows)])
  delta = mj.Poison.load(poison).delta
  np.testing.assert_array_equal(found.protected - found.clean.astype(int), delta)
  assert found.labels.tolist() == [row % 2 for row in rows]
  assert len(found.first(5).protected) == 5
  assert len(tested) == 8


@pytest.mark.parametrize("count", [0, 25])
def test_a_count_is_refused_before_anything_trains(tmp_path, count, capsys):
  mine = [*map(str, stored(tmp_path / "mine", 0))]
  with pytest.raises(SystemExit, match="2"):
    pairs.main([*mine, "--attacker", *mine, "--counts", "8", str(count)])
  assert f"--counts has {count}, but there are 24 pairs" in capsys.readouterr().err


def test_files_that_cannot_be_used_are_one_sentence(tmp_path, capsys):
  archive, poison = map(str, stored(tmp_path / "mine", 0))
  parts = {k: np.load(archive)[k] for k in ("x_train", "y_train")}
  np.savez(tmp_path / "train.npz", **parts)
  np.savez(tmp_path / "few.npz", **{k: part[:9] for k, part in parts.items()})
  for data, key, message in (
    ("no.npz", poison, "no.npz"),
    (archive, "no", "There is no complete poison in no"),
    (str(tmp_path / "train.npz"), poison, "train.npz has no test images"),
    (str(tmp_path / "few.npz"), poison, "few.npz has 9 images, too few for"),
  ):
    with pytest.raises(SystemExit, match="2"):
      pairs.main([data, key, "--attacker", archive, poison])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_there_is_a_row_for_each_attack(tmp_path, capsys, quick_compiler):
  mine, other = stored(tmp_path / "mine", 0), stored(tmp_path / "other", 1)
  options = ["--attacker", *map(str, other), "--counts", "8", "24", "--epochs=1", "--steps=2"]
  pairs.main([*map(str, mine), *options])
  lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
  names = [line.split(" | ")[0][2:] for line in lines]
  attacks = [f"{other[1]}, {count} pairs" for count in (8, 24)]
  heads = "images of the victim", "detector trained on the pairs of"
  assert names == [heads[0], "clean", "protected", *attacks, heads[1], str(other[1])]
  assert "| clean | 0.00 |" in lines[1]
  assert 0 <= float(lines[-1].split(" | ")[1].rstrip(" |")) <= 1
