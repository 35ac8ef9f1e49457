"""Measures what networks learn from an archive, from its published and from its restored images.

    python -m benchmarks.protected_archive ORIGINAL.npz PUBLISHED.npz RESTORED.npz

The archives have the layout of MedMNIST. Victims learn from the training images of each archive and
are tested on the test images of the first one. Accuracy alone does not show a victim that always
names the larger class: balanced accuracy and AUC do.
"""

import argparse
import pathlib

from miue_jax.experiment import api
from miue_jax.owner import archive

VICTIMS = ("small_cnn:24:10", "resnet18:12:10")


def main(arguments: list[str] | None = None) -> None:
  """Prints a table: a row for each archive, victim and seed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("archives", type=pathlib.Path, nargs="+", metavar="FILE.npz")
  parser.add_argument("--victim", action="append", help="NAME:WIDTH:EPOCHS", default=None)
  parser.add_argument("--seeds", type=int, default=3)
  options = parser.parse_args(arguments)
  contents = {path.resolve(): archive.read(path) for path in options.archives}
  first = next(iter(contents.values()))
  test = first["test_images"], first["test_labels"]
  images = {str(path): content["train_images"] for path, content in contents.items()}
  print("| victim | seed | learned from | accuracy | balanced accuracy | at the best epoch | AUC |")
  print("|---|---:|---|---:|---:|---:|---:|")
  for victim in options.victim or VICTIMS:
    name, width, epochs = victim.split(":")
    rows = api.evaluate(
      images,
      first["train_labels"],
      test,
      victims=(name,),
      seeds=range(options.seeds),
      width=int(width),
      epochs=int(epochs),
      normalise="none",
      augment="crop_flip",
      weight_decay=5e-4,
    )
    for row in rows:
      print(
        f"| {victim} | {row['seed']} | {row['method']} | {row['test_accuracy']:.1f} | "
        f"{row['balanced_accuracy']:.1f} | {row['peak_test_accuracy']:.1f} | {row['auc']:.3f} |"
      )


if __name__ == "__main__":
  main()
