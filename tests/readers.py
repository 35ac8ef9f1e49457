"""Lists the readers of untrusted files, each with a function that makes a sound file for it."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from miue_jax import models
from miue_jax.artefact import external, features, manifest, release
from miue_jax.artefact.poison import Poison
from miue_jax.data import npz, pixels
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.images import Images
from miue_jax.experiment import bindings, schemas
from miue_jax.experiment import workdir as workdirs
from miue_jax.experiment.results import Rows
from miue_jax.machine import archives, documents
from miue_jax.owner import private
from miue_jax.pictures import decode, survey
from miue_jax.pictures.entries import Content, Entry
from miue_jax.pictures.key import Key
from miue_jax.settings.config import Config, Model
from miue_jax.train import pretrained

_RNG = np.random.default_rng(0)
IMAGES = _RNG.integers(8, 248, (6, 4, 4, 3)).astype(np.uint8)
LABELS = np.arange(6) % 2
DATA = Dataset("tiny", Split(Images(IMAGES), LABELS), None, ("0", "1"))
DELTA = _RNG.integers(-8, 9, IMAGES.shape).astype(np.int8)
MODULE = models.build(Model(name="small_cnn", width=2), 2, (4, 4, 3))
VARIABLES = models.init(MODULE, jax.random.key(0), (4, 4, 3))

CELL = {"dataset": "tiny", "method": "miue", "victim": "small_cnn", "defence": "none", "seed": 0}
RESULT = CELL | {
  "num_classes": 2,
  "epochs": 2,
  "test_accuracy": 55.0,
  "balanced_accuracy": 55.0,
  "peak_test_accuracy": 60.0,
  "peak_epoch": 1,
  "train_accuracy": 99.0,
  "auc": 0.5,
  "seconds": 1.5,
  "curve": {
    "epoch": [1, 2],
    "train_loss": [0.7, 0.1],
    "train_accuracy": [60.0, 99.0],
    "test_accuracy": [60.0, 55.0],
  },
}
_TERMS = {"half_log_det": -3.0, "intra_cosine": 0.5, "inter_cosine": 0.1, "effective_rank": 2.5}
_TERMS |= {"divergence": 0.125}
_OF_CLASS = _TERMS | {"spectrum": [2.0, 0.5, 0.0], "trace": 2.5}
_SEPARABLE = {"test_accuracy": 80.0, "train_accuracy": 90.0, "chance": 50.0}
ESTIMATE = {
  "method": "miue",
  "layer": "features",
  "estimator": "sliced histogram",
  "mi": 0.5,
  "std": 0.01,
  "interval": [0.4, 0.6],
  "null_mean": 0.01,
  "null_std": 0.001,
  "p_value": 0.01,
  "warnings": ["few samples"],
  "settings": {"bins": 16},
}
THEORY = {
  "method": "miue",
  "before": _TERMS,
  "after": _TERMS | {"half_log_det": -9.0},
  "classes": [{"label": 0, "samples": 9, "before": _OF_CLASS, "after": _OF_CLASS}],
  "skipped": [1],
  "note": "a lower bound",
  "perturbations": _SEPARABLE,
  "images": _SEPARABLE,
  "class_means": {"before": 1.0, "after": 2.0},
  "learning": {"first_loss": 0.7, "epochs_to_half": 1.5},
}
MEASUREMENT = {"settings": {"samples": 9, "seed": 0}, "rows": [ESTIMATE], "theory": [THEORY]}


@dataclasses.dataclass(frozen=True)
class Reader:
  """A reader of one kind of file.

  Attributes:
    name: Path of the file below an empty folder.
    make: Writes a sound file there, and what lies next to it.
    read: Reads the file.
    document: For JSON, the content of the sound file.
  """

  name: str
  make: Callable[[pathlib.Path], Any]
  read: Callable[[pathlib.Path], Any]
  document: Any = None


def _json(name: str, document: Any, read: Callable[[pathlib.Path], Any]) -> Reader:
  end = "\n" if name.endswith("l") else ""
  return Reader(name, lambda path: path.write_text(json.dumps(document) + end), read, document)


def _poison() -> Poison:
  values = {"config": {"seed": 0}, "seed": 0, "seconds": 1.0, "extra": {"num_classes": 2}}
  return Poison.make(DATA, DELTA, method="miue", epsilon=8 / 255, **values)


def _save_poison(path: pathlib.Path) -> None:
  _poison().save(path.parent)


def _export(path: pathlib.Path) -> None:
  path.parent.rmdir()
  release.export(DATA, _poison(), path.parent)


def _picture(name: str) -> Reader:
  def make(path):
    Image.fromarray(np.tile(IMAGES[0], (4, 4, 1))).save(path)

  return Reader(
    name, make, lambda path: pixels.decode(str(path), str(path), gray=False, size=0), None
  )


def _brought_pictures(path: pathlib.Path) -> None:
  for i, image in enumerate(IMAGES):
    Image.fromarray(image).save(path.with_name(f"{i}.png"))


def _weights(path: pathlib.Path) -> None:
  pretrained.transplant(pretrained.load(path), VARIABLES)


STORED = {"config": {"seed": 0, "data": {"size": 0}, "method": {}}, "fingerprint": "ab" * 32}
STORED |= {"dataset": "tiny", "stages": {"generate": {"seed": 0, "training images": "ab" * 32}}}


def enter(root: pathlib.Path) -> None:
  """Opens a workdir and checks what its stages were made with, as a run does."""
  workdir = workdirs.open_workdir(root)
  with workdirs.occupied(workdir, alone=False):
    images = {"training images": STORED["fingerprint"]}
    experiment = workdirs.Experiment(Config(), workdir, DATA)
    bindings.check(experiment, images, ("generate", "evaluate", "measure"))


def _begun(path: pathlib.Path) -> None:
  path.write_text(json.dumps(STORED))
  (path.parent / "checkpoints" / "generate").mkdir(parents=True)


def _published(path: pathlib.Path) -> None:
  _poison().save(path.parent)
  release.export(DATA, _poison(), path.parents[1] / "images", key=path.parent)


def _restored(path: pathlib.Path) -> None:
  restored = path.parents[1] / "restored"
  try:
    release.restore(path.parents[1] / "images", path.parent, restored)
  finally:
    shutil.rmtree(restored, ignore_errors=True)


def _photograph(name: str) -> Reader:
  def make(path):
    Image.fromarray(np.tile(IMAGES[0], (4, 4, 1))).save(path)

  return Reader(name, make, lambda path: decode.read(path, path.name))


def _key(path: pathlib.Path) -> None:
  entry = Entry("a/x.jpg", "a", "a/x.png", bytes(32), bytes(range(32)))
  with Key.create(path, {"seed": 1}) as key:
    key.add(entry, Content("delta", (16, 16, 3), 8, DELTA[0], b"fine", b"profile", b"Exif\0\0a"))


def _contents(path: pathlib.Path) -> None:
  with Key.open(path) as key:
    for entry in key.entries:
      key.load(entry)


def _labels(path: pathlib.Path) -> None:
  Image.fromarray(IMAGES[0]).save(path.with_name("1.png"))
  path.write_text("file,class\n1.png,cat\n2.png,dog\n")


def _owners(name: str, document: Any, read: Callable[[private.Private], Any]) -> Reader:
  return _json(f"out.private/{name}", document, lambda path: read(private.Private(path.parent)))


_TRIAL = {"victim": "small_cnn", "published": 40.0, "originals": 80.0}
_AUDIT = _TRIAL | {"date": "2026-01-01", "version": "1", "attack": "blurring", "share": 0.5}
_AUDIT |= {"interval": [30.0, 50.0], "chance": 25.0, "pictures": 8}
_PROVED = {"judgement": "protected", "sentence": "It is.", "notes": ["a"], "trials": [_TRIAL]}
_PROVED |= {"proved": {"judgement": "protected", "sentence": "It is."}}
_NOTED = {"photos": "/x", "left_out": ["y"], "key": "k", "shareable": True, "measured": 3}
_NOTED |= {"visibility": [["SSIM", "0.99"]]}

READERS = [
  Reader(
    "data/x.npz",
    lambda path: np.savez_compressed(
      path, x_train=IMAGES, y_train=LABELS, class_names=np.array(["a", "é"])
    ),
    npz.read,
  ),
  Reader(
    "array/x.npy", lambda path: np.save(path, IMAGES), lambda path: archives.read_npy(path, "x")
  ),
  Reader("poison/delta.npy", _save_poison, lambda path: Poison.load(path.parent)),
  Reader("poison/manifest.json", _save_poison, manifest.read, _poison().manifest),
  Reader("run/config.json", _begun, lambda path: enter(path.parent), STORED),
  _json("run/results.jsonl", RESULT, lambda path: Rows(path).read()),
  _json(
    "run/measurements.jsonl", CELL | MEASUREMENT, lambda path: Rows(path, schemas.Measured).read()
  ),
  _json("run/lost.jsonl", CELL | {"reason": "full"}, lambda path: Rows(path, schemas.Loss).read()),
  _json(
    "run/measurement.json",
    MEASUREMENT,
    lambda path: documents.read_json(path, schema=schemas.Measurement),
  ),
  Reader("weights/x.npz", lambda path: pretrained.save(VARIABLES, path), _weights),
  Reader(
    "features/x.npz", lambda path: np.savez(path, x=np.eye(5, dtype=np.float32)), features.load
  ),
  Reader(
    "external/x.npz",
    lambda path: np.savez_compressed(path, x_train=IMAGES, y_train=LABELS),
    lambda path: external.load(path, DATA),
  ),
  Reader(
    "external/x.npy",
    lambda path: np.save(path, IMAGES),
    lambda path: external.load(path, DATA),
  ),
  Reader("external/0.png", _brought_pictures, lambda path: external.load(path.parent, DATA)),
  Reader("images/index.csv", _export, lambda path: release.read(path.parent, IMAGES.shape)),
  *map(_picture, ("pictures/x.png", "pictures/x.jpg", "pictures/x.webp", "pictures/x.bmp")),
  Reader("poison/published.npz", _published, _restored),
  *map(_photograph, ("photos/x.jpg", "photos/x.tif", "photos/x.gif")),
  Reader("photos/x.csv", _labels, lambda path: survey.survey(path.parent, labels=path)),
  Reader("out.key/x", _key, _contents),
  _owners(
    "verdict.json", _PROVED, lambda store: (private.verdict_of(store), private.trials_of(store))
  ),
  _owners("page.json", _NOTED, private.noted_in),
  _json(
    "out.private/audits.jsonl",
    _AUDIT,
    lambda path: private.by_audit(Rows(path, private.Audit).read()),
  ),
  Reader(
    "rounds/0000.npz",
    lambda path: private.Rounds(path.parent).add([bytes(32), bytes(range(32))], DELTA[:2]),
    lambda path: private.Rounds(path.parent).published(),
  ),
]
BY_NAME = {reader.name: reader for reader in READERS}


def sound(reader: Reader, folder: pathlib.Path) -> pathlib.Path:
  """Makes a sound file for a reader in a folder, and returns its path."""
  path = folder / reader.name
  path.parent.mkdir(parents=True)
  reader.make(path)
  return path
