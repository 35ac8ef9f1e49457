"""Tests that a published folder is attacked and verified again, and that results are recorded."""

import json

import numpy as np
import pytest

from miue_jax.owner import audit, choose, private, protect, verify
from miue_jax.report import verdict
from miue_jax.settings.errors import UserError

JUDGEMENTS = (
  verdict.PROTECTED,
  verdict.PARTLY,
  verdict.NOT_PROTECTED,
  verdict.UNKNOWN,
)


@pytest.fixture
def published(quick, photos, tmp_path):
  out = tmp_path / "out"
  request = protect.Request(photos, out, seed=1)
  protect.protect(request, lambda question: None, lambda line: None)
  return out


def test_attacks_are_recorded_in_order_until_the_time_is_over(published, photos, monkeypatch):
  monkeypatch.setattr(audit, "ATTACKS", audit.ATTACKS[:2])
  lines = []
  share = audit.audit(published, None, None, None, None, lines.append)
  folder = private.path_of(published)
  rows = [json.loads(line) for line in (folder / "audits.jsonl").read_text().splitlines()]
  assert [row["attack"] for row in rows] == ["nothing", "JPEG at quality 90"]
  assert share == max(row["share"] for row in rows)
  assert all(row["pictures"] == 4 and row["chance"] == 50 for row in rows)
  assert all(row["interval"][0] <= row["published"] <= row["interval"][1] for row in rows)
  assert lines[0].startswith("Nothing: ")
  audit.audit(published, None, None, None, 1e-9, lines.append)
  assert "The time is over; not tried: JPEG at quality 90." in lines
  assert len((folder / "audits.jsonl").read_text().splitlines()) == 3


def test_originals_that_moved_are_asked_for(published, photos):
  moved = photos.rename(photos.with_name("elsewhere"))
  with pytest.raises(UserError, match="say with --photos where they are"):
    audit.audit(published, None, None, None, None, lambda line: None)
  (moved / "a" / "00.png").unlink()
  lines = []
  with pytest.raises(UserError, match="There is no key"):
    verify.verify(moved, None, None, moved, lines.append)


def test_verification_tells_every_victim_and_pipeline(published, monkeypatch):
  monkeypatch.setattr(verify, "_PIPELINES", ("the whole picture", "the centre"))
  lines = []
  found = verify.verify(published, None, None, None, lines.append)
  assert found.judgement in JUDGEMENTS
  assert sum("sees the centre" in line for line in lines) == 2
  assert lines[0] == "Guessing gives 50 % of 4 held-out pictures."


def test_attacks_name_known_pipelines_and_defences():
  from miue_jax import defences
  from miue_jax.owner import pipelines

  for attack in audit.ATTACKS:
    assert attack.pipeline in pipelines.PIPELINES
    assert defences.build(attack.defence).name == attack.defence
  assert len({attack.said for attack in audit.ATTACKS}) == len(audit.ATTACKS)
  assert np.isclose(choose.STRENGTHS["low"] * 255, 4)
