import numpy as np
import pytest

from benchmarks import carrying


def test_a_perturbation_that_is_seen_at_its_size_correlates():
  image = carrying.photographs(200)[1]
  delta = carrying.perturbation("smooth", np.random.default_rng(0))
  correlation, ratio = carrying.arrives(image, delta, (0.0, 0.0, 1.0, 1.0), 64, None)
  assert correlation > 0.9
  assert 0.5 < ratio < 1.05


@pytest.mark.parametrize("loader", carrying.LOADERS)
def test_boxes_lie_in_the_picture(loader):
  rng = np.random.default_rng(0)
  for width, height in ((300, 200), (100, 400)):
    left, top, right, bottom = carrying.box_of(loader, width, height, rng)
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1
  assert carrying.box_of("centre crop", 200, 100, rng) == (0.25, 0, 0.75, 1)


def test_tables():
  lines = carrying.survival(carrying.photographs(64)[:1], (8,))
  assert len(lines) == 2 + 2 * 3
  assert {line.count("|") for line in lines} == {7}
  text = "\n".join(carrying.large(megapixels=1))
  assert "| carry and add |" in text
  assert "As webp it has" in text
