"""Publishing and restoring: bit for bit, by content, in part, and after kill -9."""

import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import unicodedata

import numpy as np
import pytest
import samples
from PIL import Image

from miue_jax.pictures import decode, encode, entries, key, publish, restore, survey
from miue_jax.pictures.decode import Picture
from miue_jax.pictures.entries import Content, Entry
from miue_jax.pictures.key import Key
from miue_jax.settings.errors import UserError


def write_all(root):
  """Writes a picture of every mode."""
  rng = np.random.default_rng(0)
  (root / "a").mkdir(parents=True)
  (root / "b").mkdir()
  for channels in (1, 2, 3, 4):
    samples.image(samples.soft(rng, channels=channels)).save(root / f"a/eight{channels}.png")
    deep = Picture(samples.deep(rng, channels=channels))
    (root / f"a/deep{channels}.png").write_bytes(encode.encode(deep))
  rgb = Image.fromarray(samples.soft(rng))
  for suffix in ("jpg", "jfif", "webp", "tif", "bmp", "gif", "ppm"):
    rgb.save(root / f"b/{suffix}.{suffix}")
  rgb.convert("CMYK").save(root / "b/cmyk.jpg")
  rgb.convert("P").save(root / "b/palette.png")
  rgb.convert("1").save(root / "b/bits.png")
  return root


def publish_all(root, out, path, kind="png", passphrase=None):
  rng = np.random.default_rng(1)
  results = []
  with Key.create(path, {"seed": 3}, passphrase) as made:
    for found in survey.survey(root).pictures:
      delta = samples.delta(rng)
      results.append(publish.publish(root, found, delta, out, made, kind=kind))
  return results


@pytest.fixture
def photos(tmp_path):
  return write_all(tmp_path / "photos")


def restored(tmp_path, out=None, name="back"):
  with Key.open(tmp_path / "out.key") as opened:
    return restore.restore(out or tmp_path / "out", tmp_path / name, opened)


def assert_same_pixels(photos, back, paths):
  originals = {p.published: p.path for p in survey.survey(photos).pictures}
  for path in paths:
    original = decode.read(photos / originals[path.rpartition(".")[0]])
    again = decode.read(back / path)
    assert again.channels.dtype == original.channels.dtype
    np.testing.assert_array_equal(again.channels, original.channels)
    assert again.profile == original.profile


@pytest.mark.parametrize("kind", sorted(encode.SUFFIX))
def test_every_mode_in_every_format_comes_back_bit_for_bit(tmp_path, photos, kind):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key", kind)
  outcome = restored(tmp_path)
  assert len(outcome.restored) == 18
  assert outcome.refused == outcome.missing == ()
  names = [p.published + ".x" for p in survey.survey(photos).pictures]
  assert {n.rpartition(".")[0] for n in names} == {n.rpartition(".")[0] for n in outcome.restored}
  assert_same_pixels(photos, tmp_path / "back", outcome.restored)


def test_the_budget_holds_on_published_files(tmp_path, photos):
  results = publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  for found, result in zip(survey.survey(photos).pictures, results, strict=True):
    original = decode.read(photos / found.path).channels
    public = decode.read(tmp_path / "out" / result.path).channels
    unit = 257 if original.dtype == np.uint16 else 1
    assert np.abs(public.astype(int) - original).max() <= 8 * unit
    assert (public != original).any()


def test_published_files_follow_the_umask_and_the_key_does_not(tmp_path, photos):
  old = os.umask(0o022)
  try:
    publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  finally:
    os.umask(old)
  assert (tmp_path / "out.key").stat().st_mode & 0o777 == 0o600
  assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*.png")} == {0o644}


def test_renamed_moved_saved_again_and_missing_files(tmp_path, photos):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  other = tmp_path / "other"
  other.mkdir()
  decomposed = unicodedata.normalize("NFD", "\u00e9t\u00e9.png")
  (tmp_path / "out/a/eight3.png").rename(other / decomposed)
  with Image.open(tmp_path / "out/b/jpg.png") as image:
    image.save(other / "again.tif")  # lossless
    image.save(other / "lossy.jpg", quality=90)
  with Image.open(tmp_path / "out/a/eight1.png") as image:
    image.convert("RGBA").save(other / "wider.webp", lossless=True)
  altered = decode.read(tmp_path / "out/b/bmp.png").channels.copy()
  altered[0, 0, 0] ^= 1
  (other / "b").mkdir()
  Image.fromarray(altered).save(other / "b/bmp.png")
  (other / "bad.png").write_bytes(b"x")
  outcome = restored(tmp_path, other)
  assert outcome.restored == ("a/eight1.png", "a/eight3.png", "b/jpg.png")
  assert_same_pixels(photos, tmp_path / "back", outcome.restored)
  assert dict(outcome.refused) == {
    "b/bmp.png": "altered since it was published",
    "bad.png": "cannot be decoded (unknown format): repair or remove it.",
    "lossy.jpg": restore._UNKNOWN,
  }
  assert len(outcome.missing) == 14
  assert "b/bmp.bmp" not in outcome.missing


def test_equal_pictures_are_told_apart_by_their_path(tmp_path):
  root = tmp_path / "photos"
  (root / "a").mkdir(parents=True)
  Image.fromarray(samples.soft(np.random.default_rng(0))).save(root / "a/1.png")
  shutil.copy(root / "a/1.png", root / "a/2.png")
  with Key.create(tmp_path / "out.key", {}) as made:
    for found in survey.survey(root).pictures:
      delta = samples.delta(np.random.default_rng(7))
      publish.publish(root, found, delta, tmp_path / "out", made)
  assert restored(tmp_path).restored == ("a/1.png", "a/2.png")


def test_a_key_of_another_folder_restores_nothing_and_says_so(tmp_path, photos):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  with Key.create(tmp_path / "other.key", {}) as other:
    outcome = restore.restore(tmp_path / "out", tmp_path / "back", other)
  assert outcome.restored == ()
  assert {reason for _, reason in outcome.refused} == {restore._UNKNOWN}


def test_restoring_again_makes_nothing_again_and_replaces_nothing(tmp_path, photos):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  first = restored(tmp_path)
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / "back").rglob("*.png")}
  Image.new("RGB", (5, 5)).save(tmp_path / "back/b/gif.png")
  again = restored(tmp_path)
  assert set(first.restored) - set(again.restored) == {"b/gif.png"}
  assert next(reason for _, reason in again.refused).endswith("exists and is another picture")
  changed = {p for p in before if p.stat().st_mtime_ns != before[p]}
  assert changed == {tmp_path / "back/b/gif.png"}


def test_no_published_file_replaces_that_of_another_picture(tmp_path):
  photos, out = tmp_path / "photos", tmp_path / "out"
  (photos / "a").mkdir(parents=True)
  (photos / "b").mkdir()
  for name in ("a/x.jpg", "b/y.png"):
    Image.fromarray(np.full((9, 9, 3), 90, np.uint8)).save(photos / name)
  publish_all(photos, out, tmp_path / "out.key")
  (photos / "a" / "x.jpg").unlink()
  Image.fromarray(np.full((9, 9, 3), 150, np.uint8)).save(photos / "a" / "X.png")
  (found, _) = survey.survey(photos).pictures
  assert found.path == "a/X.png"
  with Key.open(tmp_path / "out.key") as secret:
    (placed,) = publish.free_places([found], secret)
  assert placed.published == "a/X_"


def test_a_picture_and_a_folder_may_have_the_same_name(tmp_path):
  photos, out = tmp_path / "photos", tmp_path / "out"
  (photos / "a" / "x.png").mkdir(parents=True)
  for number, name in enumerate(("a/x.jpg", "a/x.png/y.png")):
    Image.fromarray(np.full((9, 9, 3), 90 + number, np.uint8)).save(photos / name)
  publish_all(photos, out, tmp_path / "out.key")
  assert publish.all_published(out) == ["a/x.png/y.png", "a/x_jpg.png"]
  assert restored(tmp_path).restored == ("a/x.png/y.png", "a/x_jpg.png")
  assert_same_pixels(photos, tmp_path / "back", ["a/x.png/y.png", "a/x_jpg.png"])


def entry_of(name, published):
  return Entry(name, "a", published, bytes(32), bytes(32))


def test_what_was_published_and_what_is_new_may_have_the_same_name(tmp_path):
  content = Content(entries.FILE, (1, 1, 3), 8, None, b"", None, b"")
  new = {
    "a/x.png/y.png": "a/x.png_/y",  # a/x.png is a file
    "a/z.jpg": "a/z_",  # a/z.png is a folder
    "a/never.jpg": "a/never_",  # it is in the key, but could not be written
    "a/kept.jpg": "a/kept",
  }
  with Key.create(tmp_path / "out.key", {}) as secret:
    for name, published in (
      ("a/x.jpg", "a/x.png"),
      ("a/z.png/y.png", "a/z.png/y.png"),
      ("a/never.jpg", "a/never.png"),
      ("a/never.png/y.png", "a/never.png/y.png"),
      ("a/kept.jpg", "a/kept.png"),
    ):
      secret.add(entry_of(name, published), content)
    found = [survey.Found(name, "a", None, os.path.splitext(name)[0]) for name in new]
    placed = publish.free_places(found, secret)
  assert [picture.published for picture in placed] == list(new.values())


def test_a_picture_that_would_not_change_is_not_published(tmp_path):
  photos, out = tmp_path / "photos", tmp_path / "out"
  (photos / "a").mkdir(parents=True)
  Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "a" / "black.png")
  (found,) = survey.survey(photos, unlabelled=True).pictures
  delta = np.full((8, 8, 3), -8, np.int8)
  with Key.create(tmp_path / "out.key", {}) as secret:
    assert publish.publish(photos, found, delta, out, secret) is None
    assert not secret.entries
  assert not out.exists()


@pytest.mark.parametrize("drop", [False, True])
def test_the_author_is_dropped_from_the_published_file_only(tmp_path, drop):
  photos, exif = tmp_path / "photos", Image.Exif()
  (photos / "a").mkdir(parents=True)
  exif[0x013B] = "Ann"
  Image.new("RGB", (9, 9), "teal").save(photos / "a" / "x.png", exif=exif)
  (found,) = survey.survey(photos).pictures
  delta = np.full((8, 8, 3), 8, np.int8)
  with Key.create(tmp_path / "out.key", {}) as secret:
    publish.publish(photos, found, delta, tmp_path / "out", secret, drop_author=drop)
  assert (b"Ann" in (tmp_path / "out/a/x.png").read_bytes()) != drop
  assert restored(tmp_path).restored == ("a/x.png",)
  assert decode.read(tmp_path / "back/a/x.png").credit == {"artist": "Ann"}


@pytest.mark.parametrize(("name", "comes_back"), [("a/x.heic", True), ("a/x.sh", False)])
def test_an_original_that_is_stored_whole_is_not_decoded(tmp_path, name, comes_back):
  pixels = np.full((9, 9, 3), 90, np.uint8)
  (tmp_path / "out" / "a").mkdir(parents=True)
  Image.fromarray(pixels).save(tmp_path / "out" / "a" / "x.png")
  entry = Entry(name, "a", "a/x.png", key.digest(pixels), bytes(32))
  content = Content(entries.FILE, (9, 9, 3), 8, None, b"what a package decodes", None, b"")
  with Key.create(tmp_path / "out.key", {}) as secret:
    secret.add(entry, content)
  for _ in range(2):  # the second time it is there
    outcome = restored(tmp_path)
    assert outcome.restored == ((name,) if comes_back else ()), outcome
  assert (tmp_path / "back" / name).exists() == comes_back
  if comes_back:
    assert (tmp_path / "back" / name).read_bytes() == b"what a package decodes"


def test_exif_that_is_too_long_for_jpeg_is_reduced_to_author_and_copyright(tmp_path):
  picture = decode.Picture(np.full((9, 9, 3), 90, np.uint8), exif=b"Exif\0\0" + bytes(70000))
  file = encode.encode(picture, "jpeg", keep_metadata=True)
  assert len(file) < 70000
  assert decode.decode(file, "x.jpg").channels.shape == (9, 9, 3)


def test_the_destination_must_be_outside(tmp_path, photos):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  with pytest.raises(UserError, match=r"lies in .*choose a folder outside"):
    restored(tmp_path, name="out/back")
  with pytest.raises(UserError, match="is not a folder"):
    restored(tmp_path, tmp_path / "absent")


def test_a_link_in_the_destination_is_not_followed(tmp_path, photos):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "back").mkdir()
  (tmp_path / "back/a").symlink_to(tmp_path / "elsewhere")
  outcome = restored(tmp_path)
  assert all(path.startswith("b/") for path in outcome.restored)
  assert os.listdir(tmp_path / "elsewhere") == []


def test_what_is_published_tells_nothing_of_the_owner(tmp_path):
  root = tmp_path / "photos"
  (root / "a").mkdir(parents=True)
  exif = Image.Exif()
  exif[0x010F], exif[0x8298] = "SecretCamera", "Ann"
  exif.get_ifd(0x8825).update({1: "N", 2: (50.0, 1.0, 2.0)})
  picture = Image.fromarray(samples.soft(np.random.default_rng(0)))
  picture.save(root / "a/x.jpg", exif=exif)
  publish_all(root, tmp_path / "out", tmp_path / "out.key")
  assert [p.name for p in (tmp_path / "out").rglob("*")] == ["a", "x.png"]
  file = (tmp_path / "out/a/x.png").read_bytes()
  assert b"SecretCamera" not in file
  assert str(tmp_path).encode() not in file
  with Image.open(io.BytesIO(file)) as image:
    assert dict(image.getexif()) == {0x8298: "Ann"}
  restored(tmp_path)
  with Image.open(tmp_path / "back/a/x.png") as image:  # The owner gets everything back.
    assert image.getexif()[0x010F] == "SecretCamera"
    assert image.getexif().get_ifd(0x8825)[2] == (50.0, 1.0, 2.0)


def test_a_picture_that_is_published_again_adds_nothing(tmp_path, photos):
  publish_all(photos, tmp_path / "out", tmp_path / "out.key")
  size = (tmp_path / "out.key").stat().st_size
  rng = np.random.default_rng(1)
  with Key.open(tmp_path / "out.key", append=True) as opened:
    for found in survey.survey(photos).pictures:
      delta = samples.delta(rng)
      publish.publish(photos, found, delta, tmp_path / "out", opened)
  assert (tmp_path / "out.key").stat().st_size == size


PROGRAM = """
  import pathlib, sys
  import numpy as np, samples
  from miue_jax.pictures import publish, restore, survey
  from miue_jax.pictures.key import Key
  root = pathlib.Path(sys.argv[1])
  path = root / "out.key"
  made = Key.open(path, append=True) if path.exists() else Key.create(path, {"seed": 3})
  publish.clear_leftovers(root / "out")
  rng = np.random.default_rng(1)
  for found in survey.survey(root / "photos").pictures:
    delta = samples.delta(rng)
    publish.publish(root / "photos", found, delta, root / "out", made)
    print(flush=True)
"""


def contents(folder):
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_kill_9_leaves_a_key_that_knows_every_published_file(tmp_path, photos):
  publish_all(photos, tmp_path / "whole", tmp_path / "whole.key")
  (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
  paths = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[2]]
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
  command = [sys.executable, tmp_path / "program.py", tmp_path]
  rng = np.random.default_rng(int(time.time()) // 86400)
  for _ in range(3):
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
      for _ in range(rng.integers(1, 9)):
        process.stdout.readline()
      time.sleep(rng.uniform(0, 0.01))
      process.send_signal(signal.SIGKILL)
    known = contents(tmp_path / "out")
    with Key.open(tmp_path / "out.key") as opened:
      outcome = restore.restore(tmp_path / "out", tmp_path / "back", opened)
    assert outcome.refused == ()
    whole = [name for name in known if not pathlib.PurePath(name).name.startswith(".")]
    assert len(outcome.restored) == len(whole) > 0
    shutil.rmtree(tmp_path / "back")
  subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")
  assert restored(tmp_path).missing == ()


def test_two_programs_cannot_write_one_key(tmp_path, photos):
  (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
  paths = [pathlib.Path(__file__).parent, pathlib.Path(__file__).parents[2]]
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
  with Key.create(tmp_path / "out.key", {}):
    command = [sys.executable, tmp_path / "program.py", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
  assert "Another program is writing" in done.stderr


def test_leftovers_of_a_dead_program_are_removed(tmp_path):
  (tmp_path / "a").mkdir()
  with subprocess.Popen([sys.executable, "-c", ""]) as dead:
    pass
  running = f".v.png.{os.getppid()}"
  for name in (f".x.png.{dead.pid}", f".y.HEIC.{dead.pid}", running, ".keep.1", ".keep", "z.png"):
    (tmp_path / "a" / name).touch()
  assert publish.clear_leftovers(tmp_path, shared=True) == 2
  assert sorted(os.listdir(tmp_path / "a")) == [".keep", ".keep.1", running, "z.png"]
  assert publish.clear_leftovers(tmp_path) == 1
  assert sorted(os.listdir(tmp_path / "a")) == [".keep", ".keep.1", "z.png"]
