"""Does work in a separate process, for libraries that may crash."""

import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from jax._src import xla_bridge  # No public function tells whether a backend was started.

from miue_jax.machine import exits
from miue_jax.settings.errors import UserError

_FAILED = 70  # exit status of a fork that printed a traceback


class Crashed(Exception):  # noqa: N818 (not an error of this package)
  """Says how a process ended before its work was done."""


def each(work: Callable[[], Iterable[Any]]) -> Iterator[Any]:
  """Yields the items of `work()`, JSON values, as soon as a fork of this process has them.

  Once jax has started a backend, its threads would be missing in a fork, and the work is done here.

  Raises:
    Crashed: The fork ended by a signal or an unexpected error before it was done.
    UserError: As raised by `work`.
  """
  if xla_bridge.backends_are_initialized() or not hasattr(os, "fork"):
    yield from work()
    return
  sys.stdout.flush()
  sys.stderr.flush()
  read, write = os.pipe()
  child = os.fork()
  if not child:
    os.close(read)
    _answer(work, write)
  os.close(write)
  done = ended = False
  # A compiler would return to Python, and see another signal, only after minutes.
  with exits.telling(lambda _: os.kill(child, signal.SIGKILL)), os.fdopen(read) as lines:
    try:
      for line in lines:
        kind, item = json.loads(line)
        if kind == "problem":
          raise UserError(item)
        done = kind == "done"
        if not done:
          yield item
      ended = True
    finally:
      if not ended:
        os.kill(child, signal.SIGKILL)
      _, status = os.waitpid(child, 0)
  if not done:
    code = os.waitstatus_to_exitcode(status)
    raise Crashed(signal.Signals(-code).name if code < 0 else f"exit status {code}")


def _answer(work: Callable[[], Iterable[Any]], write: int) -> NoReturn:
  """Writes the items of `work()` as lines and ends this process, which is a fork."""
  faulthandler.disable()  # the other process reports a crash
  try:
    with os.fdopen(write, "w") as lines:
      try:
        for item in work():
          print(json.dumps(["item", item]), file=lines, flush=True)
        print(json.dumps(["done", None]), file=lines)
      except UserError as error:
        print(json.dumps(["problem", str(error)]), file=lines)
  except BaseException:
    traceback.print_exc()
    os._exit(_FAILED)
  os._exit(0)
