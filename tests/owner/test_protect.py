"""Tests protections of toy pictures from end to end."""

import json
import os
import re
import shutil
import stat

import numpy as np
import pytest
from PIL import Image
from protections import files, pixels, run
from toy_pictures import toy

from miue_jax import transforms
from miue_jax.owner import audit, choose, private, protect
from miue_jax.owner.request import Request
from miue_jax.owner.restore import restore
from miue_jax.pictures import entries
from miue_jax.report import verdict
from miue_jax.settings.errors import UserError

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.slow
def test_all_pictures_are_published_within_the_budget_and_restored(photos, tmp_path):
  out = tmp_path / "out"
  found, said = run(photos, out)
  assert found.judgement in (
    verdict.PROTECTED,
    verdict.PARTLY,
    verdict.NOT_PROTECTED,
    verdict.UNKNOWN,
  )
  assert "a/broken.jpg" in said
  assert "notes.txt" in said
  assert "Protect 20 pictures with strength medium" in said
  assert sorted(files(out)) == sorted(f"{c}/{n:02}.png" for c in ("a", "bbb") for n in range(10))
  for name in files(out):
    change = pixels(out / name) - pixels(photos / name)
    assert 0 < np.abs(change).max() <= 8
  page = (tmp_path / "out.private" / "page" / "index.html").read_text()
  assert "PRIVATE: this page shows originals" in page
  assert "a/broken.jpg" in page
  assert page.count("data:image/png") == 6
  assert stat.S_IMODE(os.stat(tmp_path / "out.key").st_mode) == 0o600
  assert restore(out, tmp_path / "back", None, None)
  for name in files(out):
    assert (pixels(tmp_path / "back" / name) == pixels(photos / name)).all()


@pytest.mark.slow
def test_tomorrow_only_new_pictures_are_made(photos, tmp_path):
  out = tmp_path / "out"
  run(photos, out)
  before = files(out)
  toy(photos, "a", 1, start=10)  # alone: it is compared with published pictures
  (photos / "bbb" / "00.png").unlink()
  _, said = run(photos, out)
  after = files(out)
  assert {name: after[name] for name in before} == before
  assert sorted(after.keys() - before.keys()) == ["a/10.png"]
  assert "Published already, and left unchanged: 19 pictures; new: 1." in said
  assert f"No longer in {photos}: 1 picture (bbb/00.png)." in said
  assert 0 < np.abs(pixels(out / "a/10.png") - pixels(photos / "a/10.png")).max() <= 8
  found, said = run(photos, out)
  assert files(out) == after
  assert "new: 0." in said
  assert found == private.verdict_of(private.Private(tmp_path / "out.private"))


@pytest.mark.long
def test_new_pictures_are_made_to_survive_jpeg_as_the_first_were(photos, tmp_path, monkeypatch):
  out = tmp_path / "out"
  with monkeypatch.context() as smaller:
    smaller.setattr(choose, "SMALL_SIDE", 8)  # the toy pictures are larger
    _, said = run(photos, out, recompressed=True)
  assert choose.USELESS in said
  out = tmp_path / "small"
  _, said = run(photos, out, recompressed=True)
  assert choose.USELESS not in said
  toy(photos, "a", 1, start=10)
  drawn, made = transforms.random_transformation, []
  monkeypatch.setattr(
    transforms, "random_transformation", lambda names: made.append(names) or drawn(names)
  )
  run(photos, out)
  assert ("none", "jpeg75") in made
  with protect.Key.open(tmp_path / "small.key") as secret:
    assert secret.settings["choice"]["method"]["name"] == "miue_robust"
    assert "a/10.png" in {entry.name for entry in secret.entries}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gray_pictures_of_a_class_get_one_pattern_and_so_do_new_ones(tmp_path, mode):
  photos, out = tmp_path / "photos", tmp_path / "out"

  def draw(name, numbers):
    (photos / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
      values = np.random.default_rng([number, len(name)]).integers(60, 190, (8, 8), np.uint8)
      Image.fromarray(values).convert(mode).save(photos / name / f"{number:02}.png")

  def change(name):
    return pixels(out / name) - pixels(photos / name)

  for name in ("a", "bbb"):
    draw(name, range(9))
  run(photos, out, seed=2**32 - 1)
  before = files(out)
  for name in ("a", "bbb"):
    assert all((change(f"{name}/{n:02}.png") == change(f"{name}/00.png")).all() for n in range(9))
  assert (np.abs(change("a/00.png")) == 8).all()
  assert (change("a/00.png") != change("bbb/00.png")).any()
  draw("a", (9, 10))
  run(photos, out, seed=None)
  assert {name: files(out)[name] for name in before} == before
  assert (change("a/09.png") == change("a/00.png")).all()
  assert restore(out, tmp_path / "back", None, None)
  for name in files(out):
    original, public, back = (pixels(root / name) for root in (photos, out, tmp_path / "back"))
    assert public.shape == original.shape
    assert (np.ptp(np.atleast_3d(public), axis=2) == 0).all()
    np.testing.assert_array_equal(back, original, strict=True)


@pytest.mark.long
def test_the_same_seed_makes_the_same_files_and_another_one_others(photos, tmp_path):
  for name, seed in (("first", 1), ("second", 1), ("third", 2)):
    run(photos, tmp_path / name, seed=seed)
  first, second, third = (files(tmp_path / name) for name in ("first", "second", "third"))
  assert first == second
  assert all(first[name] != third[name] for name in first)


@pytest.mark.slow
def test_a_drawn_seed_is_kept_in_the_key_only(photos, tmp_path):
  run(photos, tmp_path / "out", seed=None)
  with protect.Key.open(tmp_path / "out.key") as secret:
    seed = secret.settings["choice"]["seed"]
  assert 0 <= seed < 2**32
  assert str(photos).encode() not in b"".join(files(tmp_path / "out").values())


def test_the_total_time_and_that_it_exceeds_the_limit_are_said_before_the_question(
  photos, tmp_path, said
):

  def refuse(question):
    raise UserError(question)

  request = Request(photos, tmp_path / "out", seconds=1.0)
  with pytest.raises(UserError, match="Protect 20 pictures"):
    protect.protect(request, refuse)
  takes, longer = said()[-2:]
  assert re.match("Protecting takes .* minutes?[.] Making the perturbation takes ", takes)
  assert longer == "That is more than --time, even with the fewest epochs that help."
  assert not (tmp_path / "out.key").exists()


def test_strict_stops_at_a_truncated_picture_before_anything_is_made(photos, tmp_path):
  (photos / "a" / "broken.jpg").unlink()
  whole = (photos / "bbb" / "04.png").read_bytes()
  (photos / "bbb" / "04.png").write_bytes(whole[: len(whole) // 2])  # its header can be read
  with pytest.raises(UserError, match=r"^bbb/04\.png cannot be decoded .*: repair or remove it"):
    run(photos, tmp_path / "out", strict=True)
  assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
  ("out", "said"),
  [("photos", "is the folder of your pictures"), ("photos/out", "lies in"), (".", "lies in")],
)
def test_folders_that_lie_in_each_other_are_refused(photos, tmp_path, out, said):
  with pytest.raises(UserError, match=f"{said}.*: choose a folder outside of your pictures"):
    run(photos, tmp_path / out)
  assert not (tmp_path / "photos.key").exists()


@pytest.mark.slow
def test_what_has_no_perturbation_is_not_published(photos, tmp_path, monkeypatch):
  first = protect.generate.first

  def without(*arguments):
    delta = np.array(first(*arguments))
    delta[3] = 0
    return delta

  monkeypatch.setattr(protect.generate, "first", without)
  out = tmp_path / "out"
  _, said = run(photos, out)
  assert "NOT published, because no perturbation was found: 1 picture (a/03.png)." in said
  assert sorted(files(out)) == sorted(
    {f"{c}/{n:02}.png" for c in ("a", "bbb") for n in range(10)} - {"a/03.png"}
  )
  _, said = run(photos, out)
  assert "Published already, and left unchanged: 19 pictures; new: 1." in said
  assert (pixels(out / "a/03.png") != pixels(photos / "a/03.png")).any()


def toy_key(path, settings):
  """Makes the key of a picture that is in no folder."""
  entry = entries.Entry("a/00.png", "a", "a/00.png", bytes(32), bytes(32))
  content = entries.Content(entries.FILE, (1, 1, 3), 8, None, b"", None, b"")
  with protect.Key.create(path, settings) as secret:
    secret.add(entry, content)
  return path


@pytest.mark.slow
def test_what_stops_a_protection(photos, tmp_path):
  out = tmp_path / "out"
  run(photos, out)
  with pytest.raises(UserError, match="was protected without --recompressed: leave it out"):
    run(photos, out, recompressed=True)
  with pytest.raises(UserError, match="a strength other than high"):
    run(photos, out, strength="high")
  with pytest.raises(UserError, match="a seed other than 2: leave --seed out"):
    run(photos, out, seed=2)
  (tmp_path / "out.key").rename(tmp_path / "moved.key")
  with pytest.raises(UserError, match="give its key with --key, or choose a new folder"):
    run(photos, out)
  with protect.Key.open(tmp_path / "moved.key") as secret:
    settings = secret.settings
  with protect.Key.create(tmp_path / "out.key", settings):
    pass  # of no picture, as after an interruption: it may be that of any folder
  other = toy_key(tmp_path / "other.key", settings)
  with pytest.raises(UserError, match=r"other\.key does not belong to"):
    run(photos, out, key=other)
  with pytest.raises(UserError, match=r"other\.key does not belong to"):
    audit.audit(out, other, None, None, None, 75.0, None)
  (tmp_path / "out.key").unlink()
  photos.rename(tmp_path / "elsewhere")
  (out / "a" / "stranger.png").write_bytes((out / "a" / "00.png").read_bytes())
  _, said = run(tmp_path / "elsewhere", out, key=tmp_path / "moved.key")
  assert "new: 0." in said
  assert f"NOT protected, although in {out}: 1 picture (a/stranger.png)." in said
  with protect.Key.open(tmp_path / "moved.key") as secret:
    assert secret.settings["photos"] == str(tmp_path / "elsewhere")
  for picture in (tmp_path / "elsewhere").rglob("*.png"):
    picture.write_bytes(picture.read_bytes()[:100])  # only their headers can be read
  with pytest.raises(UserError, match="can be read and has a known class"):
    run(tmp_path / "elsewhere", out, key=tmp_path / "moved.key")


@pytest.mark.slow
def test_a_mistaken_folder_does_not_become_that_of_the_originals(photos, tmp_path):
  run(photos, tmp_path / "out")
  toy(tmp_path / "others", "other", 8)
  with pytest.raises(UserError, match="can be read and has a known class"):
    run(tmp_path / "others", tmp_path / "out")
  with protect.Key.open(tmp_path / "out.key") as secret:
    assert secret.settings["photos"] == str(photos)


@pytest.mark.slow
def test_without_the_source_model_new_pictures_are_refused(photos, tmp_path):
  run(photos, tmp_path / "out")
  (tmp_path / "out.private" / "source.npz").unlink()
  toy(photos, "a", 1, start=10)
  with pytest.raises(UserError, match="put it back"):
    run(photos, tmp_path / "out")


@pytest.mark.slow
def test_a_lost_or_altered_file_is_named_and_published_again(photos, tmp_path):
  out = tmp_path / "out"
  run(photos, out)
  before = files(out)
  shutil.copy(photos / "a" / "03.png", out / "a" / "03.png")
  (out / "bbb" / "04.png").write_bytes(b"junk")
  found, said = run(photos, out)
  assert f"because altered: 2 pictures in {out} (a/03.png, bbb/04.png). Delete what" in said
  for name in ("a/03.png", "bbb/04.png"):
    (out / name).unlink()
  toy(photos, "a", 1, start=10)
  (photos / "a" / "10.png").rename(photos / "a" / "03.jpg")  # takes its name
  found, said = run(photos, out, format="webp")
  assert "any more" not in said
  assert "must not be published" not in found.sentence
  after = files(out)
  assert sorted(after.keys() - before.keys()) == ["a/03_jpg.webp"]
  assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_an_altered_file_without_its_original_is_not_to_be_deleted(photos, tmp_path):
  out = tmp_path / "out"
  run(photos, out)
  (photos / "a" / "03.png").rename(out / "a" / "03.png")
  found, said = run(photos, out)
  assert "(a/03.png). Without its original" in said
  assert "Delete what" not in said
  assert found.judgement == verdict.NOT_PROTECTED


@pytest.mark.slow
def test_lost_jpegs_are_made_again_beside_new_pictures(photos, tmp_path):
  out = tmp_path / "out"
  run(photos, out, format="jpeg")
  before = files(out)
  for name in ("a/03.jpg", "bbb/04.jpg"):
    (out / name).unlink()
  toy(photos, "a", 1, start=10)
  run(photos, out, format="jpeg")
  assert files(out).keys() == before.keys() | {"a/10.jpg"}
  assert restore(out, tmp_path / "back", None, None)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generation", "publishing", "proof"])
def test_an_interruption_continues_to_the_same_files(photos, tmp_path, monkeypatch, stage):
  run(photos, tmp_path / "whole")
  place = {
    "generation": (protect.Rounds, "add"),
    "publishing": (protect.publish, "publish"),
    "proof": (protect.proof, "prove"),
  }[stage]
  original, calls = getattr(*place), []

  def interrupted(*arguments, **options):
    calls.append(arguments)
    if len(calls) > (7 if stage == "publishing" else 0):
      raise KeyboardInterrupt
    return original(*arguments, **options)

  with monkeypatch.context() as patch:
    patch.setattr(*place, interrupted)
    with pytest.raises(KeyboardInterrupt):
      run(photos, tmp_path / "out")
  found, _ = run(photos, tmp_path / "out")
  assert files(tmp_path / "out") == files(tmp_path / "whole")
  stored = json.loads((tmp_path / "whole.private" / "verdict.json").read_bytes())
  assert found.sentence == stored["sentence"]


@pytest.mark.slow
def test_a_page_to_share_has_no_pictures_and_no_names(photos, tmp_path):
  _, said = run(photos, tmp_path / "out", shareable=True)
  path = tmp_path / "out.private" / "page" / "shareable.html"
  assert f"may be shared is {path}." in said
  page = path.read_text()
  assert "data:image/png" not in page
  assert not any(name in page for name in ("00.png", "broken", "photos", "bbb", str(tmp_path)))
  assert "CIEDE2000" in page
