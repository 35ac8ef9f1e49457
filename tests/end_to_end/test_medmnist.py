"""The recipe of MedMNIST on toy files of its subsets: more than two classes, gray and RGB."""

import json

import numpy as np
import pytest
from program import TINY

RECIPE = ("--config=configs/medmnist.py", *TINY[1:], "--config.data.size=0")


def written(path, classes, shape):
  """Writes a file in the layout of MedMNIST; the brightness of an image tells its class."""
  rng, arrays = np.random.default_rng(0), {}
  for part, count in (("train", 144), ("val", 36), ("test", 72)):
    labels = (np.arange(count) % classes).astype(np.uint8)
    noise = rng.integers(0, 60, (count, *shape))
    base = (labels * (190 // classes)).reshape(-1, *[1] * len(shape))
    arrays |= {f"{part}_images": (noise + base).astype(np.uint8)}
    arrays |= {f"{part}_labels": labels[:, None]}
  np.savez(path, **arrays)


@pytest.mark.long
@pytest.mark.parametrize(
  ("classes", "shape"),
  [
    (11, (28, 28)),
    (9, (28, 28, 3)),
  ],
)
def test_a_subset_of_several_classes(fork, tmp_path, classes, shape):
  written(tmp_path / "toy.npz", classes, shape)
  flags = [f"--config.data.path={tmp_path / 'toy.npz'}", f"--workdir={tmp_path / 'run'}"]
  result = fork(*RECIPE, *flags, "--config.method.ensemble=2")
  assert result.code == 0, result
  rows = [json.loads(row) for row in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
  accuracies = {row["method"]: row["test_accuracy"] for row in rows}
  assert accuracies["restored"] == accuracies["clean"]
  assert {"random", "miue"} <= accuracies.keys()


def test_several_findings_for_an_image_are_one_sentence(fork, tmp_path):
  findings = np.random.default_rng(0).integers(0, 2, (20, 14), np.uint8)
  images = np.zeros((20, 28, 28), np.uint8)
  np.savez(tmp_path / "chestmnist.npz", train_images=images, train_labels=findings)
  sentence = fork(RECIPE[0], f"--config.data.path={tmp_path / 'chestmnist.npz'}").sentence()
  assert "[20, 14], several labels or none for an image: choose the column" in sentence
