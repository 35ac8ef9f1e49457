"""Signals that stop loops."""

import os
import signal
import threading

import pytest

from miue_jax.machine import signals


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def handled(request):
  """Returns a signal, its handler and the list of signals that the handler received."""
  seen = []

  def handler(signum, frame):
    seen.append(signum)

  before = signal.signal(request.param, handler)
  yield request.param, handler, seen
  signal.signal(request.param, before)


def test_the_first_signal_is_remembered_and_the_second_acts(handled):
  signum, handler, seen = handled

  def interrupted():
    with signals.stop_on_signal():
      os.kill(os.getpid(), signum)
      assert (signals.received(), seen) == (signum, [])
      os.kill(os.getpid(), signum)
      assert seen == [signum]

  with pytest.raises(signals.Interrupted):
    interrupted()
  assert signal.getsignal(signum) is handler


def test_handlers_are_restored_after_success_and_after_an_error(handled):
  signum, handler, _ = handled
  with signals.stop_on_signal():
    assert signal.getsignal(signum) is not handler
    assert signals.received() is None
  assert signal.getsignal(signum) is handler
  with pytest.raises(KeyError), signals.stop_on_signal():
    raise KeyError
  assert signal.getsignal(signum) is handler


def test_signals_are_left_alone_outside_the_main_thread(handled):
  signum, handler, seen = handled
  inside, leave = threading.Event(), threading.Event()

  def work():
    with signals.stop_on_signal():
      inside.set()
      leave.wait(60)

  thread = threading.Thread(target=work)
  thread.start()
  assert inside.wait(60)
  assert signal.getsignal(signum) is handler
  os.kill(os.getpid(), signum)
  assert seen == [signum]
  leave.set()
  thread.join(60)
  assert not thread.is_alive()
  assert signals.received() is None


def test_an_error_of_the_block_does_not_lose_a_signal(handled):
  signum, _, seen = handled

  def failing():
    with signals.stop_on_signal():
      os.kill(os.getpid(), signum)
      raise KeyError

  with pytest.raises(KeyError):
    failing()
  assert seen == [signum]


def test_ignored_signals_remain_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with signals.stop_on_signal():
      os.kill(os.getpid(), signal.SIGHUP)
      assert signals.received() is None
  finally:
    signal.signal(signal.SIGHUP, before)
