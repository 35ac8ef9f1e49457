"""Tests the private folder: permissions, the lock, rounds."""

import multiprocessing
import stat

import numpy as np
import private_folder
import pytest

from miue_jax.owner import private, published
from miue_jax.pictures import key
from miue_jax.settings.errors import UserError

DIGESTS = [bytes([n]) * 32 for n in range(3)]


def test_only_the_owner_may_look(tmp_path):
  with private.opened(tmp_path / "out") as store:
    assert store.root == tmp_path / "out.private"
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def _try(out, answer):
  try:
    with private.opened(out):
      answer.put("opened")
  except UserError as error:
    answer.put(str(error))


@pytest.mark.slow
def test_two_commands_do_not_work_on_one_folder(tmp_path):
  context = multiprocessing.get_context("spawn")
  answer = context.Queue()
  with private.opened(tmp_path / "out"):
    other = context.Process(target=_try, args=(tmp_path / "out", answer))
    other.start()
    assert "Another command works on" in answer.get(timeout=60)
    other.join()


def test_the_verdict_about_pictures_is_found_next_to_them(tmp_path, said):
  for name, photos in (("out", "photos"), ("other", "elsewhere")):
    store = private.Private(private.path_of(tmp_path / name))
    private_folder.write(store, tmp_path / photos, "partly protected", f"About {name}.", "Do this.")
  (tmp_path / "damaged.private").mkdir()
  (tmp_path / "damaged.private" / "page.json").write_text("{")
  private.repeat_about(tmp_path / "photos")
  text = f"The latest verdict about {tmp_path / 'out'}: Partly protected. About out."
  assert said() == [text, "  Do this."]
  private.repeat_about(tmp_path / "nowhere" / "photos")
  assert said() == []


def test_the_verdict_about_a_part_is_found_next_to_the_key(tmp_path, said):
  store = private.Private(private.path_of(tmp_path / "keys" / "out"))
  store.root.parent.mkdir()
  private_folder.write(store, tmp_path / "photos", "partly protected", "It was.")
  private.repeat(tmp_path / "part")
  private.repeat(tmp_path / "part", tmp_path / "keys" / "other.key")
  assert said() == []
  private.repeat(tmp_path / "part", tmp_path / "keys" / "out.key")
  whole = tmp_path / "keys" / "out"
  assert said() == [f"The latest verdict about {whole}: Partly protected. It was."]


def test_rounds_are_found_by_their_originals(tmp_path):
  delta = np.arange(3 * 2 * 2 * 3, dtype=np.int8).reshape(3, 2, 2, 3)
  private.Rounds(tmp_path / "rounds").add(DIGESTS[:2], delta[:2])
  rounds = private.Rounds(tmp_path / "rounds")
  rounds.add(DIGESTS[2:], delta[2:])
  again = private.Rounds(tmp_path / "rounds")
  assert len(again) == 2
  assert all((again[digest] == row).all() for digest, row in zip(DIGESTS, delta, strict=True))
  again.published()
  empty = private.Rounds(tmp_path / "rounds")
  assert len(empty) == 2
  assert DIGESTS[0] not in empty


def test_a_damaged_round_is_one_sentence(tmp_path):
  (tmp_path / "0000.npz").write_bytes(b"PK")
  with pytest.raises(UserError, match="makes it again"):
    private.Rounds(tmp_path)


def test_a_missing_folder_is_called_missing(tmp_path):
  out = tmp_path / "out"
  with pytest.raises(UserError, match=r"There is no key at .*, and there is no folder .*out:"):
    private.key_of(out, None)
  key.Key.create(tmp_path / "out.key", {}).close()
  (tmp_path / "out.private").mkdir()
  with (
    pytest.raises(UserError, match=r"There is no folder .*out: put the published pictures back"),
    published.opened(out, None, None, None),
  ):
    pass
