"""Holds each promise of SECURITY.md."""

import dataclasses
import json
import os
import pathlib
import stat

import numpy as np
import pytest

from miue_jax.artefact import release
from miue_jax.data.dataset import Dataset, Split
from miue_jax.experiment import stages
from miue_jax.experiment import workdir as workdirs
from miue_jax.machine import files
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.methods import METHODS, Pattern
from miue_jax.report import Examples, Experiment
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError

TEXT = (pathlib.Path(__file__).parents[1] / "SECURITY.md").read_text()
DRAWN = ("lsp", "ar", "cuda", "random")


@pytest.fixture
def dataset():
  rng = np.random.default_rng(0)
  images = rng.integers(40, 215, (12, 16, 16, 3), np.uint8)
  return Dataset("noise", Split(images, np.arange(12, dtype=np.int32) % 2), None, ("cat", "dog"))


def made(dataset, name, **changes):
  """Returns the poison of a method that draws a pattern, as `generate` makes it."""
  settings = METHODS[name].settings(**changes)
  found = METHODS[name].generate(dataset, settings, 0, Checkpoints(None), None)
  return stages.poison_of(found, workdirs.Experiment(Config(method=settings), None, dataset))


@pytest.fixture
def public_umask():
  before = os.umask(0o022)
  yield
  os.umask(before)


def mode(path):
  return stat.S_IMODE(path.stat().st_mode)


def test_only_the_user_can_read_the_key(dataset, tmp_path, public_umask):
  key = tmp_path / "new" / "poison"
  for _ in range(2):
    made(dataset, "random").save(key)
    assert mode(key) == 0o700
    assert {path.name: mode(path) for path in key.iterdir()} == {
      "delta.npy": 0o600,
      "manifest.json": 0o600,
    }
    key.chmod(0o755)  # as an older version left it


def test_only_the_user_can_read_states(tmp_path, public_umask):
  files.make_private(tmp_path / "a" / "checkpoints")
  assert mode(tmp_path / "a" / "checkpoints") == 0o700


def test_an_export_holds_nothing_of_the_key(dataset, tmp_path):
  poison = made(dataset, "random", secret=True)
  release.export(dataset, poison, tmp_path / "out", ("png", "npz"))
  names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
  assert {name for name in names if not name.startswith("train/")} == {"index.csv", "poisoned.npz"}
  with np.load(tmp_path / "out" / "poisoned.npz") as archive:
    assert set(archive) == {"x_train", "y_train", "class_names"}
  content = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*.*"))
  for secret in ("fingerprint", "delta_sha256"):
    assert poison.manifest[secret].encode() not in content
  assert (tmp_path / "out" / "index.csv").read_text().splitlines()[0] == "path,label,class,sha256"


def test_a_wrong_key_restores_nothing(dataset, tmp_path):
  release.export(dataset, made(dataset, "random"), tmp_path / "out")
  made(dataset, "lsp").save(tmp_path / "other")
  with pytest.raises(UserError):
    release.restore(tmp_path / "out", tmp_path / "other", tmp_path / "clean")
  assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize("name", DRAWN)
def test_a_public_seed_gives_the_pattern_away_and_a_secret_does_not(dataset, name):
  public = made(dataset, name)
  # Somebody who has the published images and the seed draws the pattern of these images.
  published = dataclasses.replace(
    dataset, train=Split(public.apply(dataset.train.images), dataset.train.labels)
  )
  if name != "cuda":  # its pattern is a filter of the original image
    guessed = made(published, name).delta.astype(int)
    assert np.mean(guessed == public.delta) > 0.5
  assert (made(dataset, name).delta == public.delta).all()
  first, second = (made(dataset, name, secret=True) for _ in range(2))
  assert np.mean(first.delta == second.delta) < 0.5
  assert np.mean(first.delta == public.delta) < 0.5
  assert (first.restore(first.apply(dataset.train.images))[:] == dataset.train.images[:]).all()


def test_secret_bits_are_stored_nowhere(dataset, monkeypatch):
  monkeypatch.setattr("secrets.randbits", lambda bits: (1 << bits) - 12345)
  manifest = json.dumps(made(dataset, "random", secret=True).manifest)
  assert str((1 << 128) - 12345) not in manifest


@pytest.mark.parametrize("name", METHODS)
def test_an_export_warns_about_patterns_that_can_be_drawn_again(name):
  config = {"method": dataclasses.asdict(METHODS[name].settings())}
  manifest = {"method": name, "config": config, "seed": 0}
  warned = isinstance(METHODS[name], Pattern)
  assert bool(stages.secrecy_warning(manifest)) == warned == (name in (*DRAWN, "ops"))
  assert f"`{name}`" in TEXT or not warned
  if name in DRAWN:
    config["method"]["secret"] = True
    assert not stages.secrecy_warning(manifest)


def test_ops_knows_no_secret(dataset):
  with pytest.raises(UserError, match="nothing that could be secret"):
    made(dataset, "ops", secret=True)


def test_a_page_with_original_images_says_that_it_is_private(dataset):
  images = dataset.train.images[:2]
  pages = {
    private: Experiment(
      [], {}, "", examples=Examples(images, images, ("a", "b")) if private else None
    )
    for private in (True, False)
  }
  for private, page in pages.items():
    for name in ("index.html", "report.md"):
      assert ("PRIVATE" in page.files[name]) == private, name
  html, text = pages[True].files["index.html"], pages[True].files["report.md"]
  assert html.split("</h1>")[1].strip().startswith('<p class="private">PRIVATE')
  assert text.splitlines()[2].startswith("PRIVATE")
