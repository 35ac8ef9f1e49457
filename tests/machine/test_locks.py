"""Locks: one program at a time works on a piece, even if another one is killed."""

import errno
import fcntl
import os
import pathlib
import socket
import threading

import holder
import pytest

from miue_jax.machine import locks
from miue_jax.machine.locks import Locks
from miue_jax.settings.errors import UserError


def test_a_lock_of_another_program_is_free_when_it_ends(tmp_path):
  shared = Locks(tmp_path / "locks")
  with holder.holding(tmp_path / "locks", "em", 1) as other:
    for names, free in ((("em", 1), False), (("em", 2), True), (("em", "1"), True)):
      with shared.hold(*names, wait=False) as ours:
        assert ours is free
    other.kill()
    other.wait()
    with shared.hold("em", 1, wait=False) as ours:
      assert ours


def test_a_lock_is_free_again_after_the_block(tmp_path):
  shared = Locks(tmp_path / "locks")
  with shared.hold("em", wait=False) as ours:
    assert ours
    with shared.hold("poison", wait=False) as nested:
      assert nested
    # The nested block ends without releasing the outer lock.
    with pytest.raises(AssertionError), holder.holding(tmp_path / "locks", "em"):
      pass
  with holder.holding(tmp_path / "locks", "em"), shared.hold("em", wait=False) as ours:
    assert not ours


def test_waiting_ends_when_the_other_program_releases_the_lock(tmp_path):
  shared, order = Locks(tmp_path / "locks"), []

  def wait():
    with shared.hold("em", wait=True) as ours:
      order.append(ours)

  with holder.holding(tmp_path / "locks", "em") as other:
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.5)
    order.append("held")
    holder.let_go(other)
    thread.join(60)
  assert order == ["held", True]


def test_a_second_program_is_told_who_works_in_a_folder(tmp_path):
  with holder.alone(tmp_path) as other:
    with pytest.raises(UserError) as refused, locks.alone(tmp_path):
      pass
    message = str(refused.value)
    assert f"{tmp_path} is in use" in message
    assert f"process {other.pid} on {socket.gethostname()}, since 20" in message
    other.kill()
    other.wait()
    with locks.alone(tmp_path):
      pass
  with locks.alone(tmp_path):  # once more: it is free after the block
    pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
  def refuse(*arguments):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(fcntl, "flock", refuse)
  monkeypatch.setattr(fcntl, "lockf", refuse)
  with locks.alone(tmp_path), Locks(tmp_path / "locks").hold("em", wait=True) as ours:
    assert ours
    # A marker takes the place of a lock where flock is not implemented.
    if code == errno.ENOSYS:
      with pytest.raises(UserError, match="is in use"), locks.alone(tmp_path):
        pass
  with locks.alone(tmp_path):
    pass


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path, monkeypatch):
  def refuse(*arguments, **options):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
  with locks.alone(tmp_path):
    assert list(tmp_path.iterdir()) == []
