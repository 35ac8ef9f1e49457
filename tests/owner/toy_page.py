"""Writes the private page and the page to share of some pictures, in a moment."""

import json
import types

import numpy as np
from PIL import Image

from miue_jax.owner import page, private
from miue_jax.report.verdict import Verdict

VERDICT = Verdict("partly protected", "A sentence.", ("Do this next.",))
CHANGE = 5  # of every value of a published picture


def row(date, attack, share):
  values = {"published": 40.0, "interval": [30.0, 50.0], "originals": 80.0, "chance": 25.0}
  values |= {"date": date, "version": "0.2.0", "attack": attack, "share": share, "pictures": 8}
  values |= {"advice": f"do this against {attack}"}
  return values


def write(root, pictures, audits, *, photos="photos", found=VERDICT, left_out=()):
  """Writes both pages.

  Args:
    root: Existing folder for all other folders.
    pictures: Pictures by name, uint8 `[H, W, 3]`; values up to 250.
    audits: Rows of audits.
    photos: Name of the folder of the originals.
    found: The verdict.
    left_out: Lines about what was left out.

  Returns:
    The private folder.
  """
  for folder, change in ((photos, 0), ("out", CHANGE)):
    for name, image in pictures.items():
      (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image + np.uint8(change)).save(root / folder / name)
  store = private.Private(root / "out.private")
  store.root.mkdir()
  trial = {"victim": "a small network", "published": 40.0, "originals": 80.0}
  proved = {"judgement": "protected", "sentence": "", "notes": [], "trials": [trial]}
  store.verdict.write_text(json.dumps(proved))
  store.audits.write_text("".join(json.dumps(one) + "\n" for one in audits))
  entries = [types.SimpleNamespace(name=name, published=name) for name in pictures]
  folders = page.Folders(root / photos, root / "out", entries)
  page.note(store, folders, left_out, "The key is K.", True)
  page.write(store, found, folders)
  return store
