"""Writes what the private folder keeps, as the readers of these files expect it."""

import json


def write(store, photos, judgement, sentence, *notes, trials=()):
  """Makes the private folder, with what its page notes and a verdict."""
  store.root.mkdir()
  noted = {"photos": str(photos), "left_out": [], "key": "", "shareable": False}
  store.noted.write_text(json.dumps(noted | {"visibility": [], "measured": 0}))
  found = {"judgement": judgement, "sentence": sentence, "notes": notes, "trials": trials}
  store.verdict.write_text(json.dumps(found))
