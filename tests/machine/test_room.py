"""Memory that a process can take, and that its threads share."""

import concurrent.futures
import threading
import time

import pytest

from miue_jax.machine import room


def test_the_limit_is_the_smallest_of_machine_shell_and_container(tmp_path, monkeypatch):
  machine = room.limit()
  assert 10**8 < machine < 1 << 60
  with monkeypatch.context() as patch:
    allowed = machine // 2
    patch.setattr(room.resource, "getrlimit", lambda kind: (allowed, allowed))
    assert 0 <= room.limit() < allowed  # what this process has already is taken off
  (tmp_path / "memory.max").write_text("123456\n")
  monkeypatch.setattr(room, "_GROUP", tmp_path / "memory.max")
  assert room.limit() == 123456


@pytest.mark.parametrize(("size", "most"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_no_more_threads_work_than_there_is_memory_for(size, most):
  shared, counts, guard = room.Room(4), [], threading.Lock()
  working = 0

  def work(_):
    nonlocal working
    with shared.take(size):
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
  shared = room.Room(1)
  with pytest.raises(ValueError, match="stop"), shared.take(1):
    raise ValueError("stop")
  with shared.take(1):
    pass
