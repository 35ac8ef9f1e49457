"""Measures attackers who protected other images with the same program and so have pairs.

    python -m benchmarks.pairs DATA.npz POISON --attacker OTHER.npz OTHER_POISON

From pairs of clean and protected images an attacker can train a network that undoes a protection,
and one that recognises protected images. Archives have `x_train` and `y_train`, DATA.npz also
`x_test` and `y_test`; a poison is a folder of a run.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

import miue_jax as mj
from miue_jax.data import npz
from miue_jax.data.dataset import Split
from miue_jax.defences import fitting, purification
from miue_jax.experiment import calls
from miue_jax.settings.errors import UserError

# Victims, as in `configs/compare.py`.
_RECIPE = {
  "victims": ("small_cnn",),
  "width": 16,
  "learning_rate": 0.1,
  "weight_decay": 5e-4,
}


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Holds clean images and the same images as they are published.

  Attributes:
    clean: uint8 `[N, H, W, C]`.
    protected: uint8 `[N, H, W, C]`.
    labels: Integer classes `[N]`.
  """

  clean: np.ndarray
  protected: np.ndarray
  labels: np.ndarray

  def first(self, count: int) -> "Pairs":
    """Returns the first pairs.

    Raises:
      UserError: There are not so many.
    """
    if not 0 < count <= len(self.clean):
      raise UserError(f"--counts has {count}, but there are {len(self.clean)} pairs: correct it.")
    return Pairs(*(getattr(self, field.name)[:count] for field in dataclasses.fields(self)))


def read(archive: pathlib.Path, folder: pathlib.Path) -> tuple[Pairs, Split | None]:
  """Returns the images for which a poison was made, and the test images of their archive, if any.

  The manifest of the poison names the rows of its images in the archive.

  Raises:
    UserError: One of them cannot be read, or the poison was made for other images.
  """
  poison, data = mj.Poison.load(folder), npz.read(archive)
  train = data.train
  rows = np.array(poison.manifest.get("source_rows", range(len(poison.delta))))
  if rows.max() >= len(train):
    raise UserError(
      f"{archive} has {len(train)} images, too few for {folder}: correct one of them."
    )
  clean = train.images[rows]
  return Pairs(clean, poison.apply(clean), train.labels[rows]), data.test


def undone(
  published: np.ndarray,
  attackers: Mapping[str, Pairs],
  counts: Sequence[int],
  training: fitting.Training = fitting.DEFAULT,
) -> dict[str, np.ndarray]:
  """Returns what attackers make of published images, uint8 `[N, H, W, C]`, by their names.

  Args:
    published: Protected images of the owner, uint8 `[N, H, W, C]`.
    attackers: Pairs of each attacker, by name.
    counts: Numbers of pairs that an attacker has.
    training: Settings of the network that undoes protections.

  Raises:
    UserError: An attacker has fewer pairs than one of the counts.
  """
  known = {
    f"{name}, {count} pairs": pairs.first(count)
    for name, pairs in attackers.items()
    for count in counts
  }
  with calls.on_devices(training.batch_size):
    return {
      name: purification.restored(published, some.protected, some.clean, 0, training)
      for name, some in known.items()
    }


def detected(owner: Pairs, attackers: Mapping[str, Pairs], epochs: int) -> dict[str, float]:
  """Returns how well a network tells protected images of the owner from clean ones (AUC).

  Args:
    owner: Images of which the network has seen none.
    attackers: Pairs on which the network of each attacker is trained, by name.
    epochs: Number of epochs of its training.
  """
  found = {}
  for name, pairs in attackers.items():
    (images, labels), test = _both(pairs), _both(owner)
    rows = mj.evaluate({name: images}, labels, test, epochs=epochs, **_RECIPE)
    found[name] = rows[0]["auc"]
  return found


def _both(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
  """Returns clean images, class 0, and protected ones, class 1."""
  images = np.concatenate([pairs.clean, pairs.protected])
  return images, np.repeat([0, 1], len(pairs.clean))


def main(argv: Sequence[str] | None = None) -> None:
  """Prints the accuracies of victims and the AUC of detectors as tables."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("data", type=pathlib.Path, help="archive of the owner, with test images")
  parser.add_argument("poison", type=pathlib.Path, help="folder of the owner's poison")
  words = {"nargs": 2, "action": "append", "required": True, "metavar": ("ARCHIVE", "POISON")}
  parser.add_argument("--attacker", type=pathlib.Path, help="an attacker's images", **words)
  words = {"nargs": "+", "default": [500, 2000, 5000]}
  parser.add_argument("--counts", type=int, help="numbers of pairs of an attacker", **words)
  parser.add_argument("--epochs", type=int, default=20, help="of victims and detectors")
  parser.add_argument("--steps", type=int, default=fitting.DEFAULT.steps, help="of the U-Net")
  options = parser.parse_args(argv)
  if min(options.epochs, options.steps) < 1:
    parser.error("--epochs and --steps must be at least 1")
  try:
    _tables(options)
  except UserError as error:
    parser.error(str(error))


def _tables(options: argparse.Namespace) -> None:
  owner, tested = read(options.data, options.poison)
  attackers = {str(folder): read(archive, folder)[0] for archive, folder in options.attacker}
  if tested is None:
    raise UserError(f"{options.data} has no test images: add x_test and y_test.")
  test = tested.images[:], tested.labels
  sets = {"clean": owner.clean, "protected": owner.protected}
  training = dataclasses.replace(fitting.DEFAULT, steps=options.steps)
  sets |= undone(owner.protected, attackers, options.counts, training)
  rows = mj.evaluate(sets, owner.labels, test, epochs=options.epochs, **_RECIPE)
  print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
  print("| images of the victim | mean change in 255ths | last epoch | best |")
  print("|---|---:|---:|---:|")
  for row in rows:
    change = np.abs(sets[row["method"]].astype(np.int16) - owner.clean).mean()
    accuracies = f"{row['test_accuracy']:.1f} | {row['peak_test_accuracy']:.1f}"
    print(f"| {row['method']} | {change:.2f} | {accuracies} |")
  print("\n| detector trained on the pairs of | AUC |\n|---|---:|")
  for name, area in detected(owner, attackers, options.epochs).items():
    print(f"| {name} | {area:.3f} |")


if __name__ == "__main__":
  main()
