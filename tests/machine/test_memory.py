"""Peak memory of a block, compared with an allocation of known size."""

import concurrent.futures
import json
import threading
import time

import numpy as np
import pytest

from miue_jax.machine import memory

SIZE = 200_000_000

pytestmark = pytest.mark.skipif(not memory._CLEAR.exists(), reason="only Linux tells")


def peak(path, size):
  with memory.recorded(path):
    np.ones(size, np.uint8)
  return memory.read(path)


def test_the_peak_of_a_block_is_measured(tmp_path):
  small = peak(tmp_path / "small.json", 1)
  large = peak(tmp_path / "large.json", SIZE)
  after = peak(tmp_path / "after.json", 1)
  assert large - small == pytest.approx(SIZE, rel=0.2)
  assert after - small == pytest.approx(0, abs=0.2 * SIZE)  # an earlier peak does not count


def test_the_larger_of_two_peaks_is_kept(tmp_path):
  path = tmp_path / "memory.json"
  large = peak(path, SIZE)
  assert peak(path, 1) == large


def test_a_block_that_fails_is_recorded(tmp_path):
  with pytest.raises(RuntimeError), memory.recorded(tmp_path / "memory.json"):
    raise RuntimeError
  assert memory.read(tmp_path / "memory.json") > 0


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"peak_memory_bytes": None})])
def test_a_file_that_cannot_be_read_gives_none(tmp_path, text):
  (tmp_path / "memory.json").write_text(text)
  assert memory.read(tmp_path / "memory.json") is None
  assert memory.read(tmp_path / "absent.json") is None


def test_the_limit_is_the_smallest_of_machine_shell_and_container(tmp_path, monkeypatch):
  machine = memory.limit()
  assert SIZE < machine < 1 << 60
  with monkeypatch.context() as patch:
    allowed = machine // 2
    patch.setattr(memory.resource, "getrlimit", lambda kind: (allowed, allowed))
    assert 0 <= memory.limit() < allowed  # what this process has already is taken off
  (tmp_path / "memory.max").write_text("123456\n")
  monkeypatch.setattr(memory, "_GROUP", tmp_path / "memory.max")
  assert memory.limit() == 123456


@pytest.mark.parametrize(("size", "most"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_no_more_threads_work_than_there_is_memory_for(size, most):
  room, counts, guard = memory.Room(4), [], threading.Lock()
  working = 0

  def work(_):
    nonlocal working
    with room.take(size):
      with guard:
        working += 1
        counts.append(working)
      time.sleep(0.01)
      with guard:
        working -= 1

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(16)))
  assert max(counts) == most


def test_room_is_given_back_after_an_error():
  room = memory.Room(1)
  with pytest.raises(ValueError, match="stop"), room.take(1):
    raise ValueError("stop")
  with room.take(1):
    pass
