"""Tests speed over images and traffic over devices."""

import jax
import pytest

from benchmarks import scaling


@pytest.mark.long
def test_traffic_over_devices_is_that_of_a_ring(use_devices, config, sizes):
  use_devices(1)
  rows = scaling.over_devices(config, sizes)
  assert [row["devices"] for row in rows] == [n for n in (1, 2, 4, 8) if n <= len(jax.devices())]
  features = 8 * 8 * 3
  for row in rows:
    n = row["devices"]
    # Features are gathered and their gradients scattered; so are a label and a weight. Loss and
    # total are summed.
    gathered = 16 * 4 * (2 * features + 2) * (n - 1) / n
    assert row["delta"] == pytest.approx(gathered + 2 * 8 * (n - 1) / n, rel=0.01)
    # Gradients of matrix and bias, the loss and the correct answers are summed.
    assert row["source"] == pytest.approx(2 * 4 * (4 * features + 4 + 2) * (n - 1) / n, rel=0.01)


@pytest.mark.long
def test_an_epoch_is_run_for_each_number_of_images(use_devices, config, sizes, tmp_path):
  use_devices(1)
  rows = scaling.over_images(config, sizes, (40,))
  assert [row["images"] for row in rows] == [40]
  for row in rows:
    # There are one source pass in batches of 8 and two sign steps on every image.
    assert row["images_per_second"] * row["seconds"] == pytest.approx(3 * row["images"])
  scaling.draw(rows, [{"devices": 1, "delta": 0.0, "source": 0.0}], tmp_path)
  drawn = (tmp_path / "images.svg").read_text()
  assert all(label in drawn for label in ("images/s", "seconds", "training images"))
  drawn = (tmp_path / "devices.svg").read_text()
  assert all(label in drawn for label in ("delta step", "source step", "devices"))
