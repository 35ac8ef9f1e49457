"""The key: there and back, appended to, cut at every byte, hostile, encrypted."""

import dataclasses
import hashlib
import json
import os
import resource
import struct
import zlib

import numpy as np
import pytest
import samples

from miue_jax.pictures import cipher, entries, key
from miue_jax.pictures.entries import Content, Entry
from miue_jax.pictures.key import Key
from miue_jax.settings.errors import UserError


def picture(number, profile=None):
  rng = np.random.default_rng(number)
  name = f"cats/picture {number}.jpg"
  entry = Entry(name, "cats", f"cats/picture {number}.png", rng.bytes(32), rng.bytes(32))
  delta = samples.delta(rng, 8)
  return entry, Content("delta", (30, 40, 3), 8, delta, rng.bytes(50), profile, b"Exif\0\0abc")


def same(first, second):
  np.testing.assert_array_equal(first.delta, second.delta)
  return all(
    getattr(first, name) == getattr(second, name)
    for name in ("how", "shape", "bits", "extra", "profile", "exif")
  )


@pytest.mark.long
@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_pictures_come_back_and_more_are_added_tomorrow(tmp_path, passphrase):
  path = tmp_path / "out.key"
  with Key.create(path, {"seed": 12}, passphrase) as made:
    for number in (0, 1):
      made.add(*picture(number, b"profile" * 50))
  assert path.stat().st_mode & 0o777 == 0o600
  before = path.read_bytes()
  with Key.open(path, passphrase, append=True) as opened:
    opened.add(*picture(2))
    opened.update({"seed": 12, "model": "a"})
  assert path.read_bytes().startswith(before)
  with Key.open(path, passphrase) as opened:
    assert opened.settings == {"seed": 12, "model": "a"}
    assert [entry.name for entry in opened.entries] == [picture(n)[0].name for n in range(3)]
    for number in range(3):
      entry, content = picture(number, b"profile" * 50 if number < 2 else None)
      assert opened.find(entry.digest) == [entry]
      assert opened.get(entry.name) == entry
      assert same(opened.load(entry), content)
  assert os.listdir(tmp_path) == ["out.key"]


def test_a_profile_is_stored_once(tmp_path):
  profile = np.random.default_rng(0).bytes(5000)
  with Key.create(tmp_path / "k", {}) as made:
    made.add(*picture(0, profile))
    one = (tmp_path / "k").stat().st_size
    made.add(*picture(1, profile))
  assert (tmp_path / "k").stat().st_size - one < 1000


def test_the_latest_entry_of_a_name_counts(tmp_path):
  entry, content = picture(0)
  newer = Entry(entry.name, "dogs", entry.published, b"n" * 32, entry.source)
  with Key.create(tmp_path / "k", {}) as made:
    made.add(entry, content)
    made.add(newer, content)
  with Key.open(tmp_path / "k") as opened:
    assert list(opened.entries) == [newer]
    assert opened.load(newer).how == "delta"


def test_the_latest_entry_of_a_published_file_counts_even_if_names_are_swapped(tmp_path):
  (first, content), (second, other) = picture(0), picture(1)
  with Key.create(tmp_path / "k", {}) as made:
    made.add(first, content)
    made.add(second, other)
    swapped = [dataclasses.replace(a, name=b.name) for a, b in ((first, second), (second, first))]
    for entry, old in zip(swapped, (first, second), strict=True):
      made.add(entry, made.load(old))
    assert made.find(first.digest) == [swapped[0]]
  with Key.open(tmp_path / "k") as opened:
    assert sorted(opened.entries, key=lambda entry: entry.published) == swapped
    assert [opened.find(entry.digest) for entry in swapped] == [[entry] for entry in swapped]
    assert same(opened.load(swapped[0]), content)
    assert same(opened.load(swapped[1]), other)


def test_a_key_that_is_cut_anywhere_keeps_what_was_complete(tmp_path):
  path = tmp_path / "k"
  ends = []
  with Key.create(path, {"seed": 1}) as made:
    start = path.stat().st_size
    for number in range(3):
      made.add(*picture(number))
      ends.append(path.stat().st_size)
  content = path.read_bytes()
  for cut in range(start, len(content) + 1, 7):
    for tail in (b"", bytes(40)):
      path.write_bytes(content[:cut] + (tail if cut in (start, *ends) else b""))
      with Key.open(path) as opened:
        assert len(opened.entries) == sum(end <= cut for end in ends)
      with Key.open(path, append=True) as opened:
        opened.add(*picture(9))
      with Key.open(path) as opened:
        assert opened.entries[-1] == picture(9)[0]


def test_damage_in_the_middle_is_refused(tmp_path):
  path = tmp_path / "k"
  last = 0
  with Key.create(path, {"seed": 1}) as made:
    for number in range(3):
      made.add(*picture(number))
      last = path.stat().st_size if number == 1 else last
  content = path.read_bytes()
  for place in range(0, last, 13):
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    for append in (False, True):
      with pytest.raises(UserError, match=r"is damaged|is not a key"):
        Key.open(path, append=append)
    assert path.stat().st_size == len(content)


def record(kind, content):
  head = kind + struct.pack("<I", len(content))
  check = hashlib.sha256(content).digest()[:8]
  return head + struct.pack("<I", zlib.crc32(head)) + content + check


def hostile(path, fields, body=b""):
  text = json.dumps(fields).encode() if isinstance(fields, dict) else fields
  packed = struct.pack("<I", len(text)) + text + body
  path.write_bytes(key._MAGIC + record(b"S", b"{}") + record(b"P", packed))


FIELDS = {
  "name": "a/x.jpg", "class": "a", "published": "a/x.png", "digest": "0" * 64, "source": "0" * 64,
  "how": "delta", "shape": [4, 4, 3], "bits": 8, "grid": [2, 2, 3], "profile": "",
  "sizes": [len(zlib.compress(bytes(12))), 0, 0],
}  # fmt: skip


def test_the_honest_form_of_the_hostile_keys_is_read(tmp_path):
  hostile(tmp_path / "k", FIELDS, zlib.compress(bytes(12)))
  with Key.open(tmp_path / "k") as opened:
    assert opened.load(opened.entries[0]).delta.shape == (2, 2, 3)


@pytest.mark.parametrize("field", ["name", "published"])
@pytest.mark.parametrize(
  "value",
  ["../x.png", "/etc/x.png", "a/../../x.png", ".bashrc", "a/.ssh/x.png", "a//x.png", "",
   "a/x\n.png", "a/\x1b[31m.png", "a\0.png", "\ud800.png", "x" * 300, 7, None, ["a"]],
)  # fmt: skip
def test_names_that_lead_outside_are_refused(tmp_path, field, value):
  hostile(tmp_path / "k", FIELDS | {field: value})
  with pytest.raises(UserError, match=r"leads outside|is damaged"):
    Key.open(tmp_path / "k")


@pytest.mark.parametrize(
  "change",
  [{"digest": "0"}, {"source": None}, {"class": 3}],
)
def test_descriptions_of_wrong_types_are_refused(tmp_path, change):
  hostile(tmp_path / "k", FIELDS | change)
  with pytest.raises(UserError, match="is damaged"):
    Key.open(tmp_path / "k")


@pytest.mark.parametrize("text", [b"[" * 60_000, b'{"a":' * 10_000, b"\xff", b"[]", b"", b"{}"])
def test_untrusted_json_is_refused(tmp_path, text):
  hostile(tmp_path / "k", text)
  with pytest.raises(UserError, match="is damaged"):
    Key.open(tmp_path / "k")


@pytest.mark.parametrize(
  "change",
  [
    {"how": "pickle"}, {"how": []}, {"shape": [1 << 30, 1 << 30, 3]}, {"shape": [4, 4]},
    {"shape": [4, 4, 9]}, {"shape": [0, 4, 3]}, {"shape": "abc"}, {"bits": 7}, {"bits": [8]},
    {"grid": [1 << 20, 1 << 20, 3]}, {"grid": [2, 3, 3]}, {"grid": [2, 2, 2]}, {"grid": [2, 2, 1]},
    {"sizes": [1, 0, 0]}, {"sizes": [-1, 0, 0]}, {"sizes": [True, 0, 0]}, {"profile": "other"},
    {"profile": 3},
  ],
)  # fmt: skip
def test_contents_that_do_not_fit_are_refused(tmp_path, change):
  hostile(tmp_path / "k", FIELDS | change, zlib.compress(bytes(12)))
  with Key.open(tmp_path / "k") as opened, pytest.raises(UserError, match="is damaged"):
    opened.load(opened.entries[0])


def test_a_bomb_is_refused(tmp_path):
  bomb = zlib.compress(bytes(10**8))
  hostile(tmp_path / "k", FIELDS | {"sizes": [len(bomb), 0, 0]}, bomb)
  with Key.open(tmp_path / "k") as opened, pytest.raises(UserError, match="is damaged"):
    opened.load(opened.entries[0])


def test_a_full_disk_leaves_the_key_as_it_was(tmp_path):
  path = tmp_path / "out.key"
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  with Key.create(path, {"seed": 1}) as made:
    made.add(*picture(0))
    before = path.read_bytes()
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
      with pytest.raises(UserError, match=r"out\.key"):
        made.add(*picture(1))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    made.add(*picture(2))
  with Key.open(path) as opened:
    assert [entry.name for entry in opened.entries] == [picture(n)[0].name for n in (0, 2)]
    assert same(opened.load(picture(2)[0]), picture(2)[1])


def test_a_passphrase_for_a_key_without_one_is_refused(tmp_path):
  path = tmp_path / "out.key"
  Key.create(path, {}).close()
  with pytest.raises(UserError, match="is not encrypted"):
    Key.open(path, "secret", append=True)


def test_create_never_replaces_a_key(tmp_path):
  Key.create(tmp_path / "k", {"seed": 1}).close()
  with pytest.raises(UserError, match=r"exists: name another key.* give the same command again"):
    Key.create(tmp_path / "k", {})
  assert os.listdir(tmp_path) == ["k"]
  with Key.open(tmp_path / "k") as opened:
    assert opened.settings == {"seed": 1}


def test_other_files_are_refused(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "text").write_text("hello")
  for name, message in (("pipe", "is not a file"), ("text", "is not a key"), ("no", "not a file")):
    with pytest.raises(UserError, match=message):
      Key.open(tmp_path / name)


@pytest.mark.slow
def test_passphrases(tmp_path):
  with Key.create(tmp_path / "k", {"seed": "hidden"}, "right") as made:
    made.add(*picture(0))
  content = (tmp_path / "k").read_bytes()
  assert b"hidden" not in content
  assert b"cats" not in content
  with pytest.raises(UserError, match="is encrypted: give its passphrase"):
    Key.open(tmp_path / "k")
  with pytest.raises(UserError, match="passphrase does not open"):
    Key.open(tmp_path / "k", "wrong")
  with pytest.raises(UserError, match="passphrase is empty"):
    Key.create(tmp_path / "other", {}, " ")


@pytest.mark.slow
@pytest.mark.parametrize("failures", [3, 100])
def test_a_busy_machine_does_not_make_a_passphrase_wrong(tmp_path, monkeypatch, failures):
  pyrage = pytest.importorskip("pyrage")
  Key.create(tmp_path / "k", {"seed": 1}, "right").close()
  decrypt, left = pyrage.passphrase.decrypt, [failures]

  def busy(secret, passphrase):
    left[0] -= 1
    if left[0] >= 0:
      raise ValueError("Excessive work parameter for passphrase.")  # as age says it
    return decrypt(secret, passphrase)

  monkeypatch.setattr(pyrage.passphrase, "decrypt", busy)
  monkeypatch.setattr(cipher, "_PAUSE", 0)
  if failures == 3:
    with Key.open(tmp_path / "k", "right") as opened:
      assert opened.settings == {"seed": 1}
  else:
    with pytest.raises(UserError, match=r"too busy to open .* a passphrase, which may be right"):
      Key.open(tmp_path / "k", "right")


def test_a_missing_pyrage_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "pyrage", None)
  with pytest.raises(UserError, match=r"pip install 'miue-jax\[encrypt\]'"):
    Key.create(tmp_path / "k", {}, "right")


def test_the_default_place_is_next_to_the_folder(tmp_path):
  assert key.default_path(tmp_path / "out/") == tmp_path / "out.key"


def test_digest_sees_pixels_not_their_form():
  rng = np.random.default_rng(0)
  gray = samples.soft(rng, channels=1)
  opaque = np.full_like(gray, 255)
  forms = [gray, np.repeat(gray, 3, axis=2), np.concatenate([gray, opaque], axis=2)]
  forms += [
    np.concatenate([np.repeat(gray, 3, axis=2), opaque], axis=2),
    gray.astype(np.uint16) * 257,
  ]
  assert len({key.digest(form) for form in forms}) == 1
  for count, form in zip((1, 3, 2, 4), forms, strict=False):
    np.testing.assert_array_equal(entries.expanded(gray, count, 8), form)
  other = gray.copy()
  other[3, 4] ^= 1
  assert key.digest(other) != key.digest(gray)
  assert key.digest(gray.reshape(60, 40, 1)) != key.digest(gray)
  assert key.digest(gray + np.uint16(1)) != key.digest(gray)
