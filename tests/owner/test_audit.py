"""Tests that a published folder is attacked and verified again, and that results are recorded."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from miue_jax.experiment import victims
from miue_jax.owner import audit, choose, pipelines, private, protect, torch_victim, verify
from miue_jax.owner import published as published_pairs
from miue_jax.owner.request import Request
from miue_jax.pictures.key import Key
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
  request = Request(photos, out, seed=1)
  protect.protect(request, lambda question: None)
  return out


@pytest.fixture
def learned(monkeypatch):
  """Lets the toy victims, which only guess, seem to have learned from the originals."""
  monkeypatch.setattr(audit.proof, "chance_of", lambda labels: 0.0)


@pytest.mark.slow
def test_nothing_is_concluded_where_networks_learn_nothing(published):
  with pytest.raises(
    UserError, match="of 4 held-out pictures, and guessing gives 50 %, so nothing"
  ):
    audit.audit(published, None, None, None, None, 75.0, None)
  assert not private.Private(private.path_of(published)).audits.exists()


@pytest.mark.long
def test_attacks_are_recorded_in_order_until_the_time_is_over(
  published, learned, monkeypatch, said
):
  monkeypatch.setattr(audit, "ATTACKS", audit.ATTACKS[:2])
  held = audit.audit(published, None, None, None, None, 1e6, None)
  lines = said()
  folder = private.path_of(published)
  rows = [json.loads(line) for line in (folder / "audits.jsonl").read_text().splitlines()]
  assert [row["attack"] for row in rows] == ["nothing", "JPEG at quality 90"]
  assert held
  strongest = max(rows, key=lambda row: row["share"])
  share = f"{100 * strongest['share']:.0f} %"
  if strongest["attack"] == "nothing":
    assert f"than the files as they are: {share} of what" in lines[-1]
  else:
    assert f"{strongest['attack']}, gives back {share}" in lines[-1]
  sentences = [line for line in lines if not line.startswith("  ")]  # without notes of a verdict
  assert sentences[-2].startswith(f"The latest verdict about {published}: ")
  assert "JPEG at quality 90" in (folder / "page" / "index.html").read_text()
  assert all(row["pictures"] == 4 and row["chance"] == 0 for row in rows)
  assert all(row["interval"][0] <= row["published"] <= row["interval"][1] for row in rows)
  assert lines[0].startswith("Nothing: ")
  assert not audit.audit(published, None, None, None, 1e-9, -1.0, None)
  assert "The time is up; not tried: JPEG at quality 90." in said()
  assert len((folder / "audits.jsonl").read_text().splitlines()) == 3


def made(root, *names):
  """Makes protected folders without content."""
  for name in names:
    (root / name).mkdir(parents=True)
    private.path_of(root / name).mkdir()
  return root


@pytest.fixture
def attempts(monkeypatch):
  """Replaces the audit of one folder: the name of the folder says how it ends."""
  found = []

  def attempt(out, key, passphrase, photos, seconds, threshold, weights):
    found.append((out.name, seconds))
    if out.name == "lost":
      raise UserError("There is no key.")
    return out.name != "fallen"

  monkeypatch.setattr(audit, "audit", attempt)
  return found


def test_all_protected_folders_are_audited_and_share_the_time(tmp_path, attempts, said):
  made(tmp_path, "year/first", "second", ".hidden")
  private.path_of(tmp_path / "year" / "first").rmdir()
  (tmp_path / "year" / "first.key").touch()  # is enough to expect a private folder
  (tmp_path / "second" / "inner.private").mkdir()  # a class of pictures
  assert audit.audit_all(tmp_path, None, 3600, 75.0)
  assert [name for name, _ in attempts] == ["second", "first"]
  (first, second) = (seconds for _, seconds in attempts)
  assert 1790 < first <= 1800 < second <= 3600
  assert said()[-1] == "2 of 2 protected folders were audited."


def test_one_folder_that_fell_or_failed_does_not_stop_the_others(tmp_path, attempts, said):
  made(tmp_path / "one", "fallen", "lost", "sound")
  assert not audit.audit_all(tmp_path / "one", None, None, 40.0)
  lines = said()
  assert [name for name, _ in attempts] == ["fallen", "lost", "sound"]
  assert lines[-1] == f"Attacks give back more than 40 % in {tmp_path / 'one' / 'fallen'}."
  assert lines[-2].startswith("Not audited, for the reasons above: ")
  made(tmp_path / "two", "lost", "sound")
  with pytest.raises(UserError, match=r"Not audited, for the .*lost\."):
    audit.audit_all(tmp_path / "two", None, None, 75.0)
  (tmp_path / "three").mkdir()
  with pytest.raises(UserError, match="There is no protected folder"):
    audit.audit_all(tmp_path / "three", None, None, 75.0)


def test_the_conclusion_compares_with_the_audit_before_and_says_what_to_do(said):
  values = ((private.UNTOUCHED, 0.2, "2026-10-01"), ("blurring", 0.4, "2026-10-01"))
  values += ((private.UNTOUCHED, 0.5, "2026-11-01"), ("JPEG at quality 75", 0.8, "2026-11-01"))
  rows = [
    {"attack": attack, "share": share, "date": date, "advice": f"do this against {attack}"}
    for attack, share, date in values
  ]
  assert not audit._concluded(private.by_audit(rows), 75.0)
  assert said() == [
    "The strongest attack, JPEG at quality 75, gives back 80 % of what the originals teach: NOT "
    "protected. On 2026-10-01 it was 40 %.",
    "That is more than 75 %. What to do next: do this against JPEG at quality 75.",
  ]
  audit._concluded(private.by_audit(rows[:1] + rows[2:]), 75.0)  # an audit that was interrupted
  assert said()[0].endswith("On 2026-10-01 it was 20 %, of 1 attack instead of 2.")
  assert audit._concluded(private.by_audit(rows[:2]), 75.0)
  with pytest.raises(UserError, match="No attack was tried"):
    audit._concluded(private.by_audit(rows[:1]), 75.0)
  assert said()[-1] == "The files as they are give 20 % of what the originals teach."
  assert not audit._concluded(private.by_audit(rows[:1]), 15.0)
  rows[1]["share"] = 0.1
  assert audit._concluded(private.by_audit(rows[:2]), 75.0)
  assert said()[-1] == (
    "No attack gives back more than the files as they are: 20 % of what the originals teach, "
    "protected."
  )


@pytest.mark.parametrize(
  ("strength", "side", "gray", "recompressed", "jpeg", "colour"),
  [
    (
      "medium",
      32,
      False,
      False,
      "protect with --recompressed",
      "add pictures, or publish pictures without",
    ),
    ("low", 32, False, True, "--strength medium (which is seen", "(which is seen more easily)"),
    ("medium", 32, False, True, "add pictures", "pictures without colour"),
    ("medium", 64, False, False, "--strength high (which is seen", "(which is seen more easily)"),
    ("high", 32, False, True, "add pictures", "add pictures, or publish pictures without"),
    ("high", 64, False, False, "add pictures", "add pictures"),
    ("high", 28, True, False, "add pictures", "add pictures"),
  ],
)
def test_advice_depends_on_what_was_chosen(strength, side, gray, recompressed, jpeg, colour):
  counts = {"a": 50, "b": 50}
  choice = choose.choose(counts, strength, side, 0, gray=gray, recompressed=recompressed)
  advice = {attack.said: attack.advice(choice) for attack in audit.ATTACKS}
  assert jpeg in advice["JPEG at quality 75"]
  assert colour in advice["dropping colour"]
  assert strength != "high" or not any("--strength" in text for text in advice.values())


@pytest.mark.slow
def test_originals_that_moved_are_asked_for(published, photos):
  moved = photos.rename(photos.with_name("elsewhere"))
  with pytest.raises(UserError, match="name that folder with --photos"):
    audit.audit(published, None, None, None, None, 75.0, None)
  (moved / "a" / "00.png").unlink()
  with pytest.raises(UserError, match="There is no key"):
    verify.verify(moved, None, None, moved, False, None)


@pytest.mark.slow
def test_the_same_pictures_are_held_out_in_whatever_order_the_key_has_them(published, monkeypatch):
  def held_out():
    with published_pairs.opened(published, None, None, None) as pairs:
      names = [entry.name for entry in pairs.folders.entries]
      return [name for name, out in zip(names, pairs.held_out, strict=True) if out]

  expected = held_out()
  backwards = property(lambda key: list(reversed(key._entries.values())))
  monkeypatch.setattr(Key, "entries", backwards)
  assert held_out() == expected


@pytest.mark.slow
def test_pictures_that_are_missing_or_others_are_no_complete_pairs(published, photos):
  def complete():
    with published_pairs.opened(published, None, None, None) as pairs:
      return pairs.complete

  assert complete()
  first = photos / "a" / "00.png"
  kept = first.read_bytes()
  first.write_bytes((photos / "bbb" / "01.png").read_bytes())
  assert not complete()
  first.unlink()
  assert not complete()
  first.write_bytes(kept)
  assert complete()


@pytest.mark.slow
def test_changed_originals_are_named_and_the_verdict_about_them_is_not_repeated(
  published, photos, monkeypatch, said
):
  monkeypatch.setattr(pipelines, "USUAL", (pipelines.WHOLE,))
  store = private.Private(private.path_of(published))
  before = private.verdict_of(store)
  (photos / "a" / "01.png").write_bytes((photos / "bbb" / "01.png").read_bytes())
  verify.verify(published, None, None, None, False, None)
  lines = said()
  assert lines[0] == (
    f"Changed since they were protected: 1 picture in {photos} (a/01.png). Put back the originals, "
    "or name their folder with --photos."
  )
  assert lines[-1] == (
    "Later commands do not repeat this verdict, because originals or published files are missing "
    "or have changed."
  )
  assert private.verdict_of(store) == before


@pytest.mark.slow
def test_a_damaged_history_is_found_before_networks_are_trained(published):
  (private.path_of(published) / "audits.jsonl").write_text("{}\n")
  with (
    pytest.raises(UserError, match="audits"),
    published_pairs.opened(published, None, None, None),
  ):
    pass


@pytest.mark.slow
def test_verification_tells_every_victim_and_pipeline(published, monkeypatch, said):
  monkeypatch.setattr(pipelines, "USUAL", (pipelines.WHOLE, "the centre"))
  seen = []

  def train(learned, tested, seed):
    seen.append((len(learned[0]), len(tested[0])))
    return 50.0, 75.0

  monkeypatch.setattr(torch_victim, "require", lambda: None)
  monkeypatch.setattr(torch_victim, "train", train)
  found = verify.verify(published, None, None, None, True, None)
  lines = said()
  assert found.judgement in JUDGEMENTS
  assert sum("sees the centre" in line for line in lines) == 3
  assert seen == 4 * [(16, 4)]
  assert (
    f"{torch_victim.LABEL} that sees the centre: 50 % from published files (best epoch 75 %), 50 % "
    "from originals (best epoch 75 %)."
  ) in lines
  assert lines[0] == "Guessing gives 50 % of 4 held-out pictures."
  store = private.Private(private.path_of(published))
  assert private.verdict_of(store) == found  # what `restore` and others repeat
  assert len(private.trials_of(store)) == 2 * 3 * 2  # pipelines, victims, moments
  assert "of 12 attempts" in (store.page / "index.html").read_text()


@pytest.mark.slow
def test_interrupted_verification_trains_no_victim_twice(published, monkeypatch, said):
  monkeypatch.setattr(pipelines, "USUAL", (pipelines.WHOLE, "the centre"))
  verify.verify(published, None, None, None, False, None)
  whole, trained = said(), []
  train = victims.train

  def counted(*args, **kwargs):
    trained.append(kwargs["name"])
    return train(*args, **kwargs)

  def stop(line):
    if "the centre" in line:
      raise KeyboardInterrupt

  monkeypatch.setattr(victims, "train", counted)
  with monkeypatch.context() as patch:
    patch.setattr(verify, "say", stop)
    with pytest.raises(KeyboardInterrupt):
      verify.verify(published, None, None, None, False, None)
  before = len(trained)
  said()
  verify.verify(published, None, None, None, False, None)
  assert said() == whole
  assert len(trained) == 2 * 2 * 2  # pipelines, sets of pictures, victims
  assert 0 < before < len(trained)
  assert not private.Private(private.path_of(published)).verifying.exists()


@pytest.fixture
def weights(tmp_path):
  """Returns a file of weights of the victims, which are linear."""
  path = tmp_path / "linear.npz"
  kernel, bias = np.zeros((192, 5), np.float32), np.zeros(5, np.float32)
  np.savez(path, **{"params/classifier/kernel": kernel, "params/classifier/bias": bias})
  return path


@pytest.mark.slow
def test_pairs_and_pretrained_weights_are_attacks(published, learned, weights, monkeypatch, said):
  chosen = [audit.ATTACKS[0], *(a for a in audit.ATTACKS if a.pairs or a.pretrained)]
  monkeypatch.setattr(audit, "ATTACKS", tuple(chosen))
  seen = []

  def restored(images, protected, originals, seed):
    seen.append((len(images), len(protected), np.abs(protected.astype(int) - originals).max()))
    return images

  monkeypatch.setattr(audit.purification, "restored", restored)
  audit.audit(published, None, None, None, None, 1e6, weights)
  assert [(learned, known) for learned, known, _ in seen] == [(16, 2)]
  assert 0 < seen[0][2] <= 8
  rows = (private.path_of(published) / "audits.jsonl").read_text().splitlines()
  assert [json.loads(row)["pictures"] for row in rows] == [4, 4, 2]
  assert json.loads(rows[1])["attack"] == "starting from pretrained weights"
  # The network that undoes takes far longer than the linear victim, however few the pictures.
  assert any(line.startswith("Trying undoing by a network that has seen") for line in said())


@pytest.mark.slow
@pytest.mark.parametrize(
  ("untouched", "advice", "advised"),
  [(90.0, "add pictures", [True, False]), (10.0, "protect with --recompressed", [False, True])],
)
def test_what_is_not_protected_as_it_is_gets_no_advice_against_attacks(
  untouched, advice, advised, published, learned, monkeypatch, said
):
  reached = iter(((100.0, 4), (untouched, 4), (95.0, 4)))  # originals, nothing, JPEG
  monkeypatch.setattr(audit, "_reached", lambda *args: next(reached))
  monkeypatch.setattr(audit, "ATTACKS", audit.ATTACKS[:2])
  assert not audit.audit(published, None, None, None, None, 75.0, None)
  lines = said()
  assert [line.endswith(f"Advice: {advice}.") for line in lines[:2]] == advised
  assert lines[-1] == f"That is more than 75 %. What to do next: {advice}."


@pytest.mark.slow
@pytest.mark.parametrize(("gray", "defence"), [(True, "tiles4"), (False, None)])
def test_what_repeats_is_subtracted_only_from_patterns(
  gray, defence, quick, learned, tmp_path, monkeypatch
):
  for label in "ab":
    (tmp_path / "photos" / label).mkdir(parents=True)
    for index in range(10):
      pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
      image = Image.fromarray(pixels[..., 0] if gray else pixels)
      image.save(tmp_path / "photos" / label / f"{index}.png")
  request = Request(tmp_path / "photos", tmp_path / "out", seed=1)
  protect.protect(request, lambda question: None)
  chosen = [audit.ATTACKS[0], *(attack for attack in audit.ATTACKS if attack.repeats)]
  monkeypatch.setattr(audit, "ATTACKS", tuple(chosen))
  tried, rows_of = [], audit.proof.rows_of

  def rows(*arguments, defences):
    tried.extend(defences)
    return rows_of(*arguments, defences=defences)

  monkeypatch.setattr(audit.proof, "rows_of", rows)
  nothing = pytest.raises(UserError, match="No attack was tried")
  with contextlib.nullcontext() if defence else nothing:
    audit.audit(tmp_path / "out", None, None, None, None, 1e6, None)
  assert [name for name in tried if name != "none"] == ([defence] if defence else [])


@pytest.mark.slow
def test_verification_trains_from_weights_too(published, weights, monkeypatch, said):
  monkeypatch.setattr(pipelines, "USUAL", (pipelines.WHOLE,))
  with private.opened(published) as store:
    other = store.source  # a small CNN, while the victims are linear
  with pytest.raises(UserError, match="pretrain linear of width 1 on images of 8 pixels"):
    verify.verify(published, None, None, None, False, other)
  verify.verify(published, None, None, None, False, weights)
  assert sum("from pretrained weights, for" in line for line in said()) == 2


def test_attacks_name_known_pipelines_and_defences():
  from miue_jax import defences

  for attack in audit.ATTACKS:
    assert attack.pipeline in pipelines.PIPELINES
    name = attack.defence + ("8" if attack.repeats else "")
    assert defences.build(name).name == name
  assert len({attack.said for attack in audit.ATTACKS}) == len(audit.ATTACKS)
  assert np.isclose(choose.STRENGTHS["low"] * 255, 4)
