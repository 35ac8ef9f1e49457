import numpy as np
import pytest
import samples

from miue_jax.pictures import quality
from miue_jax.pictures.decode import Picture


def test_the_same_picture_does_not_differ():
  picture = Picture(samples.soft(np.random.default_rng(0)))
  assert quality.compare(picture, picture) == quality.Quality(0, 0, pytest.approx(1), None)


def test_gray_that_becomes_one_level_lighter():
  first, second = (Picture(np.full((100, 80, 3), value, np.uint8)) for value in (128, 129))
  result = quality.compare(first, second)
  # CIELAB lightness of sRGB gray v is 116 f(Y) - 16; CIEDE2000 divides by S_L.
  lightness = [116 * (((v / 255 + 0.055) / 1.055) ** 2.4) ** (1 / 3) - 16 for v in (128, 129)]
  off = (sum(lightness) / 2 - 50) ** 2
  expected = (lightness[1] - lightness[0]) / (1 + 0.015 * off / np.sqrt(20 + off))
  assert result.delta_e_mean == pytest.approx(expected, abs=1e-3)
  assert result.delta_e_p99 == pytest.approx(expected, abs=1e-3)
  assert result.psnr == pytest.approx(20 * np.log10(255))


def test_strips_do_not_change_the_mean_much(monkeypatch):
  rng = np.random.default_rng(0)
  first = samples.soft(rng, 700, 90)
  noise = rng.integers(-8, 9, first.shape)
  pair = [Picture(first), Picture((first + noise).clip(0, 255).astype(np.uint8))]
  whole = quality.compare(*pair)
  monkeypatch.setattr(quality, "_PIXELS", 64 * 90 * 4)
  part = quality.compare(*pair)
  assert part.psnr == whole.psnr
  assert part.delta_e_mean == pytest.approx(whole.delta_e_mean, rel=0.3)


def test_tiny_pictures_have_no_ssim():
  picture = Picture(np.zeros((3, 3, 1), np.uint8))
  assert quality.compare(picture, picture).ssim is None
