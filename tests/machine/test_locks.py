"""Locks: one program at a time works on a piece, even if another one is killed."""

import threading

import holder
import pytest

from miue_jax.machine.locks import Locks


def test_a_lock_of_another_program_is_free_when_it_ends(tmp_path):
  locks = Locks(tmp_path / "locks")
  with holder.holding(tmp_path / "locks", "em", 1) as other:
    for names, free in ((("em", 1), False), (("em", 2), True), (("em", "1"), True)):
      with locks.hold(*names, wait=False) as ours:
        assert ours is free
    other.kill()
    other.wait()
    with locks.hold("em", 1, wait=False) as ours:
      assert ours


def test_a_lock_is_free_again_after_the_block(tmp_path):
  locks = Locks(tmp_path / "locks")
  with locks.hold("em", wait=False) as ours:
    assert ours
    with locks.hold("poison", wait=False) as nested:
      assert nested
    # The nested block ends without releasing the outer lock.
    with pytest.raises(AssertionError), holder.holding(tmp_path / "locks", "em"):
      pass
  with holder.holding(tmp_path / "locks", "em"), locks.hold("em", wait=False) as ours:
    assert not ours


def test_waiting_ends_when_the_other_program_releases_the_lock(tmp_path):
  locks, order = Locks(tmp_path / "locks"), []

  def wait():
    with locks.hold("em", wait=True) as ours:
      order.append(ours)

  with holder.holding(tmp_path / "locks", "em") as other:
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.5)
    order.append("held")
    holder.let_go(other)
    thread.join(60)
  assert order == ["held", True]
