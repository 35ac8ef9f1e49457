"""Drawings say their numbers as text; pictures keep every pixel."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from miue_jax.report import figures
from miue_jax.report.aggregate import Statistic


def texts(svg):
  return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_heat_map_shows_its_numbers_and_crosses_out_missing_cells():
  svg = figures.heat_map([[10.0, np.nan], [99.94, 0.0]], ["a", "b"], ["x", "y"], [(0, 0)])
  shown = texts(svg)
  for text in ("10.0", "99.9", "0.0", "\N{MULTIPLICATION SIGN}", "a", "b", "x", "y"):
    assert text in shown
  assert figures.heat_map([[np.nan]], ["a"], ["x"], []) is None


def test_a_chart_shows_its_ticks_and_names():
  line = [(0.0, Statistic(1.0, 0.5, 2)), (2.0, Statistic(3.0, None, 1))]
  chart = figures.Chart("T", "x", "y", {"em": line}, reference={"clean": 9.0})
  svg = figures.line_charts([chart])
  assert {"T", "x", "y", "0", "2", "em", "clean"} <= set(texts(svg))
  assert 'aria-label="T: y over x; of clean, em."' in svg
  named = figures.Chart("T", "x", "y", {"em": line[:1]}, ticks=("linear", "mlp2"))
  assert "mlp2" in texts(figures.line_charts([named]))
  assert figures.line_charts([]) is None


def test_ticks_of_a_logarithmic_axis_are_readable():
  line = [(1.0, Statistic(50.0, None, 1)), (2.0, Statistic(0.02, None, 1))]
  shown = texts(figures.line_charts([figures.Chart("T", "x", "y", {"em": line}, scale="log")]))
  assert "10" in shown
  assert not [text for text in shown if "$" in text]


def test_a_name_with_a_leading_underscore_is_in_the_legend():
  chart = figures.Chart("T", "x", "y", {"_em": [(0.0, Statistic(1.0, None, 1))]})
  assert any(text.endswith("_em") for text in texts(figures.line_charts([chart])))


def test_the_perturbation_is_magnified_around_mid_gray():
  clean = np.array([[[[100], [100], [100], [200], [0]]]], np.uint8)
  poisoned = np.array([[[[100], [101], [92], [250], [8]]]], np.uint8)
  expected = [128, 144, 0, 255, 255]  # 128 + 16 * (0, 1, -8, 50, 8), clipped
  np.testing.assert_array_equal(figures.magnified(clean, poisoned, 16).ravel(), expected)


@pytest.mark.parametrize(("channels", "size", "factor"), [(1, 8, 12), (3, 32, 3), (3, 224, 1)])
def test_pictures_are_enlarged_by_whole_pixels(channels, size, factor):
  generator = np.random.default_rng(0)
  image = generator.integers(0, 256, (size, size, channels)).astype(np.uint8)
  encoded = figures.image_uri(image).removeprefix("data:image/png;base64,")
  decoded = np.array(Image.open(io.BytesIO(base64.b64decode(encoded))))
  expected = image.repeat(factor, 0).repeat(factor, 1)
  np.testing.assert_array_equal(decoded.reshape(expected.shape), expected)
