"""Work on all cores: order, errors, what is left out after an error, and progress."""

import os
import subprocess
import sys
import threading

import pytest

from miue_jax.machine import progress, threads


def test_results_keep_the_order_of_the_items(monkeypatch):
  monkeypatch.setattr(threads, "_BLOCK", 3)
  assert list(threads.each(lambda item: item**2, range(10))) == [i**2 for i in range(10)]
  assert list(progress.each_shown(lambda item: -item, range(10), "wrote")) == [
    -i for i in range(10)
  ]
  assert list(threads.each(str, [])) == []


def test_work_is_shared_among_threads(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
  together = threading.Barrier(2, timeout=60)  # breaks if one thread does everything
  assert sorted(threads.each(lambda _: together.wait(), range(2))) == [0, 1]


def test_an_error_ends_the_work(monkeypatch):
  monkeypatch.setattr(threads, "_BLOCK", 4)
  begun = []

  def work(item):
    begun.append(item)
    if item == 2:
      raise KeyError(item)
    return item

  with pytest.raises(KeyError):
    list(threads.each(work, range(100)))
  assert max(begun) < 4  # later blocks were not begun


def test_the_log_says_how_much_is_done(monkeypatch, caplog):
  monkeypatch.setattr(progress, "_COUNT_SECONDS", 0)
  caplog.set_level("INFO", logger="miue_jax")
  list(progress.each_shown(str, range(5), "wrote"))
  assert "wrote 5 of 5 images" in caplog.text


def test_cores_are_those_of_this_process(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
  assert threads.cores() == 2
  monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
  assert threads.cores() == (os.cpu_count() or 1)


def test_pictures_are_surveyed_and_restored_without_jax():
  code = "import sys, miue_jax.pictures.restore as r, miue_jax.pictures.survey\n"
  code += "print('jax' in sys.modules)"
  assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
