"""One piece of work, one program, whatever becomes of the others."""

import threading

import holder

from miue_jax.machine.locks import Claims


def test_what_another_program_has_is_not_ours_until_it_ends(tmp_path):
  claims = Claims(tmp_path / "claims")
  with holder.holding(tmp_path / "claims", "em", 1) as other:
    for names, free in ((("em", 1), False), (("em", 2), True), (("em", "1"), True)):
      with claims.claim(*names, wait=False) as ours:
        assert ours is free
    other.kill()
    other.wait()
    with claims.claim("em", 1, wait=False) as ours:
      assert ours


def test_what_we_have_is_free_again_afterwards(tmp_path):
  claims = Claims(tmp_path / "claims")
  with claims.claim("em", wait=False) as ours:
    assert ours
    with claims.claim("poison", wait=False) as nested:
      assert nested
  with holder.holding(tmp_path / "claims", "em"), claims.claim("em", wait=False) as ours:
    assert not ours


def test_waiting_ends_when_the_other_lets_go(tmp_path):
  claims, order = Claims(tmp_path / "claims"), []

  def wait():
    with claims.claim("em", wait=True) as ours:
      order.append(ours)

  with holder.holding(tmp_path / "claims", "em") as other:
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.5)
    order.append("held")
    holder.let_go(other)
    thread.join(60)
  assert order == ["held", True]
