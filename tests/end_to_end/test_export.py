"""Export and restore from the command line are inverse, bit for bit."""

import json

import numpy as np
import pytest
from PIL import Image
from program import TINY, content

from miue_jax.data import sources
from miue_jax.settings import config


def read_class_folders(root):
  """Images and labels as loaders of class folders see them, torchvision's ImageFolder for one."""
  classes = sorted(path.name for path in root.iterdir())
  images, labels = {}, {}
  for label, name in enumerate(classes):
    for path in (root / name).rglob("*.png"):
      number = int(path.stem)  # digits have no file names: exports are numbered
      images[number], labels[number] = np.asarray(Image.open(path)), label
  return np.stack([images[i] for i in range(len(images))]), [labels[i] for i in range(len(labels))]


@pytest.fixture(scope="module")
def clean():
  return sources.load(config.Data(max_train=200, max_test=100)).train


@pytest.fixture
def exported(workdir, fork, tmp_path):
  output = tmp_path / "export"
  result = fork(
    *TINY, "--mode=export", "--format=png", "--format=npz", f"--workdir={workdir}",
    f"--output={output}",
  )  # fmt: skip
  assert (result.code, result.out) == (0, f"Exported images: {output}\n"), result
  return output


def test_an_export_is_clean_plus_delta_in_both_formats(workdir, exported, clean):
  delta = np.load(workdir / "poison" / "delta.npy", allow_pickle=False)
  images, labels = read_class_folders(exported / "train")
  assert images.dtype == np.uint8
  assert np.array_equal(images[..., None].astype(int) - clean.images[:], delta)
  assert labels == clean.labels.tolist()
  with np.load(exported / "poisoned.npz", allow_pickle=False) as stored:
    assert np.array_equal(stored["x_train"], images[..., None])
    assert np.array_equal(stored["y_train"], clean.labels)
    assert stored["class_names"].tolist() == [str(digit) for digit in range(10)]
  assert len(content(exported)) == 200 + 2  # the index and the npz; nothing of the key


def test_restoring_gives_back_every_bit(workdir, exported, fork, clean, tmp_path):
  output = tmp_path / "restored"
  result = fork(
    *TINY, "--mode=restore", f"--workdir={workdir}", f"--images={exported}", f"--output={output}"
  )
  assert (result.code, result.out) == (0, f"Restored images: {output}\n"), result
  images, labels = read_class_folders(output / "train")
  assert np.array_equal(images[..., None], clean.images)
  assert labels == clean.labels.tolist()
  with np.load(output / "clean.npz", allow_pickle=False) as stored:
    assert np.array_equal(stored["x_train"], clean.images)


def test_an_export_is_never_overwritten(workdir, exported, fork):
  before = content(exported)
  result = fork(*TINY, "--mode=export", f"--workdir={workdir}", f"--output={exported}")
  assert f"{exported} is not empty" in result.sentence()
  assert content(exported) == before


def test_an_altered_image_is_named_and_the_others_are_restored(workdir, exported, fork, tmp_path):
  (exported / "poisoned.npz").unlink()
  victim = next((exported / "train").rglob("*.png"))
  Image.new("L", (32, 32)).save(victim)
  output = tmp_path / "restored"
  result = fork(
    *TINY, "--mode=restore", f"--workdir={workdir}", f"--images={exported}",
    f"--output={output}",
  )  # fmt: skip
  said = f"Restored images: {output}; not restored: 1 file.\n"
  assert (result.code, result.out) == (1, said), result
  assert str(victim.relative_to(exported)) in result.err
  assert len(list((output / "train").rglob("*.png"))) == 199


@pytest.mark.long
def test_an_export_can_be_trained_on_as_a_folder(exported, fork, tmp_path):
  flags = [flag for flag in TINY if not flag.startswith(("--config=", "--config.data"))]
  result = fork(
    "--config=configs/folder.py", *flags, f"--config.data.path={exported}", "--config.data.size=32",
    "--mode=generate", f"--workdir={tmp_path / 'again'}",
  )  # fmt: skip
  assert result.code == 0, result
  manifest = json.loads((tmp_path / "again" / "poison" / "manifest.json").read_text())
  assert manifest["shape"] == [160, 32, 32, 1]  # a fifth is held out
