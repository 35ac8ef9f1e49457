"""Tests the examination of pictures before protection."""

import numpy as np
from PIL import Image

from miue_jax.owner import examine


def drawn(seed):
  small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
  return np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC))


def test_near_duplicates_are_found_and_others_are_not():
  images = np.stack([drawn(seed) for seed in range(40)])
  brighter = np.clip(images[7].astype(int) + 12, 0, 255).astype(np.uint8)
  assert examine.near(np.concatenate([images, brighter[None]])) == [(7, 40)]
  assert examine.near(images[:0]) == []


def test_faults_are_said_by_name(tmp_path):
  for name in ("cat", "dog"):
    (tmp_path / name).mkdir()
  for number in range(8):
    Image.fromarray(drawn(number)).save(tmp_path / "cat" / f"{number}.png")
  Image.fromarray(drawn(3)).save(tmp_path / "dog" / "copy.png", compress_level=1)
  (tmp_path / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  lines = []
  examine.examine(tmp_path, None, None, None, lines.append)
  said = "\n".join(lines)
  assert "The same picture in different classes: cat/3.png, dog/copy.png." in said
  assert "dog/broken.png" in said
  assert "Class 'dog' has only 1 pictures: nothing can be proved." in said
  assert "The classes are unequal: 8 of 'cat', 1 of 'dog'." in said
