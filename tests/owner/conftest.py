"""Makes folders of toy pictures, and protections that take seconds."""

import pytest
from toy_pictures import toy

from miue_jax.owner import choose, estimate


@pytest.fixture
def photos(tmp_path):
  """Returns a folder of two classes, with files that are no pictures."""
  root = tmp_path / "photos"
  toy(root, "a", 10)
  toy(root, "bbb", 10)
  (root / "a" / "broken.jpg").write_bytes(b"junk")
  (root / "notes.txt").write_text("hello")
  return root


@pytest.fixture
def said(capsys):
  """Returns `said()`, the lines that were printed since it was called before."""
  return lambda: capsys.readouterr().out.splitlines()


@pytest.fixture
def quick(monkeypatch, quick_compiler):
  """Makes generation and proof tiny."""
  monkeypatch.setattr(choose, "_EPOCHS", (2, 2))
  monkeypatch.setattr(choose, "SMALL", {"name": "small_cnn", "width": 2, "normalise": "none"})
  monkeypatch.setattr(choose, "PROOF_SIZE", 8)
  monkeypatch.setattr(choose, "SIZE", 8)
  victims = tuple(choose.Victim("a linear model", "linear", 1, epochs) for epochs in (1, 2))
  monkeypatch.setattr(choose, "_victims", lambda total: victims)
  monkeypatch.setattr(
    estimate, "estimate", lambda *arguments: estimate.Estimate(1.0, 1.0, 0.0, 1.0, 1e9)
  )
