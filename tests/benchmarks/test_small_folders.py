"""Tests the table about small folders, with toy pictures and a linear victim."""

import numpy as np
import pytest
from toy_pictures import toy

from benchmarks import small_folders
from miue_jax.owner import choose


def test_psnr_of_a_change_by_one():
  images = np.zeros((2, 4, 4, 3), np.uint8)
  assert small_folders.psnr(images, images + 1) == pytest.approx(20 * np.log10(255))


@pytest.mark.long
def test_a_row_for_each_way(tmp_path, capsys, monkeypatch, quick_compiler):
  monkeypatch.setattr(choose, "SMALL", {"name": "small_cnn", "width": 2, "normalise": "none"})
  photos, test = tmp_path / "photos", tmp_path / "test"
  for name in ("a", "bbb"):
    toy(photos, name, 8)
    toy(test, name, 8, start=8)
  small_folders.main([str(photos), str(test), "--size=8", "--victim=linear:1:2:8", "--epochs=1"])
  lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
  assert [line.split(" | ")[0][2:] for line in lines[2:]] == [
    "originals",
    *(way.name for way in small_folders.ways(1)),
  ]
  assert "| originals | inf |" in lines[2]
