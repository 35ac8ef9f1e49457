"""Tests the table about protected archives."""

import numpy as np
import pytest

from benchmarks import protected_archive


@pytest.mark.slow
def test_restored_images_teach_what_the_originals_teach(tmp_path, capsys, quick_compiler):
  rng = np.random.default_rng(0)
  labels = np.arange(32) % 2
  images = np.clip(rng.normal(90 + 60 * labels[:, None, None], 20, (32, 6, 6)), 0, 255)
  content = {"train_images": images.astype(np.uint8), "train_labels": labels}
  content |= {"test_images": content["train_images"][:8], "test_labels": labels[:8]}
  paths = [tmp_path / f"{name}.npz" for name in ("original", "published", "restored")]
  for path in paths:
    np.savez(path, **content)
  np.savez(paths[1], **content | {"train_images": 0 * content["train_images"]})
  protected_archive.main([*map(str, paths), "--victim=linear:1:4", "--seeds=1"])
  lines = capsys.readouterr().out.splitlines()[2:]
  scores = [line.split(" | ")[3:] for line in lines]
  assert [line.split(" | ")[2] for line in lines] == [str(path.resolve()) for path in paths]
  assert scores[0] == scores[2] != scores[1]
