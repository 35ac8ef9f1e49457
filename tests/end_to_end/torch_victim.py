"""A victim that shares no code with the package: PIL reads the images, PyTorch trains on them.

    python torch_victim.py RELEASE/train TEST.npz --epochs=12

Prints the accuracy in percent on `x_test`, `y_test` of an npz file as `test accuracy: 12.3`.
"""

import argparse
import pathlib

import numpy as np
import torch
from PIL import Image
from torch import nn

BATCH = 64
PAD = 2


def read_folder(root):
  """Images [N, C, H, W] in [0, 1] and labels [N]: classes are the sorted sub-folders of `root`."""
  images, labels = [], []
  classes = sorted(path.name for path in root.iterdir() if path.is_dir())
  for label, name in enumerate(classes):
    for path in sorted((root / name).glob("**/*.png")):
      images.append(np.atleast_3d(np.asarray(Image.open(path))))
      labels.append(label)
  return to_tensor(np.stack(images)), torch.tensor(labels)


def to_tensor(images):
  return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float() / 255


def block(channels, out):
  return [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]


def cropped(images):
  """Every image shifted by up to PAD pixels, as any training recipe does."""
  size = images.shape[2]
  padded = nn.functional.pad(images, (PAD,) * 4)
  shifts = torch.randint(2 * PAD + 1, (len(images), 2)).tolist()
  return torch.stack(
    [p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, shifts, strict=True)]
  )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("train", type=pathlib.Path)
  parser.add_argument("test", type=pathlib.Path)
  parser.add_argument("--epochs", type=int, default=12)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()

  torch.set_num_threads(1)  # networks this small gain nothing from more
  torch.manual_seed(options.seed)
  images, labels = read_folder(options.train)
  channels, classes = images.shape[1], int(labels.max()) + 1
  model = nn.Sequential(
    *block(channels, 16), *block(16, 32), *block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(64, classes),
  )  # fmt: skip
  optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
  steps = options.epochs * (len(images) // BATCH)
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
  for _ in range(options.epochs):
    order = torch.randperm(len(images))
    for start in range(0, len(images) - BATCH + 1, BATCH):
      batch = order[start : start + BATCH]
      loss = nn.functional.cross_entropy(model(cropped(images[batch])), labels[batch])
      optimiser.zero_grad()
      loss.backward()
      optimiser.step()
      schedule.step()

  model.eval()
  with np.load(options.test, allow_pickle=False) as stored, torch.no_grad():
    predicted = model(to_tensor(stored["x_test"])).argmax(1).numpy()
    print(f"test accuracy: {100 * np.mean(predicted == stored['y_test']):.1f}")


if __name__ == "__main__":
  main()
