"""Several processes as one program: they start together, agree, and stop together.

jax's coordination service, which lives in process 0 (the lead), connects them. All processes run
the same program on their own devices; the lead alone writes what people read. A workdir must lie
where every process sees it.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the service has no public client; Orbax reaches it here, too

from miue_jax.settings.errors import UserError

MODES = ("auto", "on", "off")
FAILED = 2  # exit status: something that the user can put right
LOST = 3  # exit status: another process died, or cannot be reached

# A process that is silent for so long is dead; a living one speaks several times in between.
_HEARTBEAT_SECONDS = 30
_FAREWELL_SECONDS = 5  # for the others to hear why this process stops
_SLICE_SECONDS = 1  # between looks at what the others said; signals are answered in between
_PREFIX = "miue_jax"
_STOP = f"{_PREFIX}/stop"

_calls = itertools.count()
_ending = threading.Lock()  # taken once, by whoever ends this process
_handlers = []  # what C calls must outlive the call that installed it


class Interrupted(Exception):  # noqa: N818 (not an error)
  """A signal arrived, the state is saved, the program should leave: all of its processes agree."""

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


def count() -> int:
  """How many processes there are, without starting a backend."""
  return distributed.global_state.num_processes


def is_lead() -> bool:
  """Whether this process is the one that writes."""
  return distributed.global_state.process_id == 0


def announced(environment: Mapping[str, str]) -> bool:
  """Whether a launcher says that this process is one of several; asks nobody.

  Known: `JAX_COORDINATOR_ADDRESS` and its kin, Slurm steps and Open MPI jobs of more than one task,
  and TPU hosts: on Kubernetes by their names, else by the chips, where jax asks the machine's
  metadata how many hosts there are.
  """
  several = (
    ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),  # without the first a batch script, not a step of it
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
  )
  hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
  if "JAX_COORDINATOR_ADDRESS" in environment:
    return True
  if any(rank in environment and int(environment.get(size, 1)) > 1 for rank, size in several):
    return True
  if hosts is not None:
    return "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1
  # jax sets the variable on import where the machine has no TPU.
  return "TPU_SKIP_MDS_QUERY" not in environment and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def together(mode: str, timeout: float) -> Iterator[None]:
  """Connects the processes; inside, whatever ends one of them early ends all, with its status.

  Must be entered before any other use of jax. Changes nothing for a single process. A process that
  others end, or that ends others, says why and leaves without unwinding: `FAILED` if not all
  arrived in time, `LOST` if another one died, else the status of the first one that left.

  Args:
    mode: `auto` connects where a launcher announces several processes, `on` insists, `off` never.
    timeout: seconds in which all processes must have arrived.

  Raises:
    UserError: nothing says who the others are.
    Interrupted: as it came; the processes agree on it by themselves.
  """
  if mode == "off" or (mode == "auto" and not announced(os.environ)):
    yield
    return
  _connect(timeout)
  if count() == 1:
    yield
    return
  _end_on_abort(2, "miue-jax: another process died, or cannot be reached any more.\n", LOST)
  over = threading.Event()
  listener = threading.Thread(target=_listen, args=(over,), daemon=True)
  listener.start()
  try:
    yield
    from_lead(lambda: None)  # it may still be writing, and its end would end the service
  except Interrupted:
    raise
  except UserError as error:
    _leave(FAILED, str(error), f"miue-jax: {error}\n")
  except jax.errors.JaxRuntimeError as error:
    reason = f"another process died, or a computation failed ({_first_line(error)})"
    _leave(LOST, reason, f"miue-jax: {reason}\n")
  except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if not status:
      raise
    _leave(status, signal.Signals(status - 128).name if status > 128 else f"status {status}", "")
  except Exception as error:
    _leave(1, f"{type(error).__name__}: {_first_line(error)}", traceback.format_exc())
  finally:
    over.set()
    listener.join()  # it must not outlive the client
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      jax.distributed.shutdown()
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def from_lead(make: Callable[[], Any]) -> Any:
  """What `make()` returns on the lead, on every process; only the lead calls it, the others wait.

  Every process must make the same calls in the same order. The value must be one of JSON's.
  """
  if count() == 1:
    return make()
  key = f"{_PREFIX}/value/{next(_calls)}"
  if is_lead():
    value = make()
    _client().key_value_set(key, json.dumps(value))
    return value
  return json.loads(_wait(key))


def require_same(values: dict[str, Any], advice: str) -> None:
  """Checks that all processes have the same values; none goes on before.

  Args:
    values: JSON values by the name that the message gives them.
    advice: what to do when they differ.

  Raises:
    UserError: on every process that differs from the lead; names what differs.
  """
  here = json.loads(json.dumps(values))
  there = from_lead(lambda: here)
  differing = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
  if differing:
    shown = ", ".join(
      f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)" for key in differing
    )
    raise UserError(
      f"Process {distributed.global_state.process_id} differs from process 0 in {shown}: {advice}."
    )
  key = f"{_PREFIX}/same/{next(_calls)}"
  if not is_lead():
    _client().key_value_set(f"{key}/{distributed.global_state.process_id}", "")
    return
  for process in range(1, count()):
    _wait(f"{key}/{process}")


def _client() -> Any:
  return distributed.global_state.client


def _connect(timeout: float) -> None:
  """Starts or finds the service; all processes return from this together.

  Raises:
    UserError: the launcher's variables are incomplete, or process 0 cannot open its port.
  """
  names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
  address, *numbers = (os.environ.get(name) for name in names)
  missing = [name for name in names if name not in os.environ]
  if address and missing:
    raise UserError(f"JAX_COORDINATOR_ADDRESS is set but {' and '.join(missing)} is not: set all.")
  try:
    settings = dict(zip(("num_processes", "process_id"), map(int, numbers), strict=True))
  except (TypeError, ValueError):
    settings = {}
    if address:
      raise UserError(
        f"JAX_NUM_PROCESSES={numbers[0]!r} and JAX_PROCESS_ID={numbers[1]!r} must be numbers."
      ) from None
  if address:
    settings["cluster_detection_method"] = "deactivate"  # nothing is left to detect
  logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
  # Its handler of SIGTERM would take the place of ours, which `runtime.received` agrees on.
  jax.config.update("jax_enable_preemption_service", False)
  with _quiet_unless_it_ends_well() as terminal:
    _end_on_abort(
      terminal,
      f"miue-jax: Not all processes met at {address or 'the coordinator'} within {timeout:g} s: "
      "check that all were started, the address and the firewall, or raise "
      "--distributed_timeout.\n",
      FAILED,
    )
    try:
      jax.distributed.initialize(
        initialization_timeout=round(timeout),
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        **settings,
      )
    except (ValueError, RuntimeError, OSError) as error:
      raise UserError(
        f"The processes cannot be connected ({_first_line(error)}): set JAX_COORDINATOR_ADDRESS "
        "(with a free port), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or --distributed=off."
      ) from error
    finally:
      signal.signal(signal.SIGABRT, signal.SIG_DFL)


@contextlib.contextmanager
def _quiet_unless_it_ends_well() -> Iterator[int]:
  """Keeps what native code writes to stderr from the terminal, whose descriptor it yields."""
  sys.stderr.flush()
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as said:
    os.dup2(said.fileno(), 2)
    try:
      yield terminal
      said.seek(0)
      os.write(terminal, said.read())
    finally:
      sys.stderr.flush()
      os.dup2(terminal, 2)
      os.close(terminal)


def _end_on_abort(stderr: int, said: str, status: int) -> None:
  """Makes an abort of native code end this process with a sentence and a status.

  The client of the service answers every failure with an abort, from a thread of its own: Python's
  handlers come too late for that, and the callback that it offers cannot be given from Python.
  """

  def end(signum: int) -> None:
    del signum
    _write(stderr, said)
    os._exit(status)

  _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(end))
  install = ctypes.CDLL(None).signal
  install.argtypes, install.restype = (ctypes.c_int, type(_handlers[-1])), ctypes.c_void_p
  install(signal.SIGABRT, _handlers[-1])


def _wait(key: str) -> str:
  """Waits for a value as long as it takes; who dies meanwhile is noticed in other ways."""
  while (text := _get(key)) is None:
    pass
  return text


def _get(key: str) -> str | None:
  """Waits a moment for a value."""
  try:
    return _client().blocking_key_value_get(key, 1000 * _SLICE_SECONDS)
  except jax.errors.JaxRuntimeError as error:
    if "DEADLINE_EXCEEDED" in str(error):
      return None
    raise


def _listen(over: threading.Event) -> None:
  """Ends this process when another one says that it stops, whatever the main thread waits for."""
  while not over.is_set():
    try:
      text = _get(_STOP)
    except jax.errors.JaxRuntimeError:
      return  # the service is lost; who waits for it will notice
    if text is not None and _ending.acquire(blocking=False):
      said = json.loads(text)
      _depart(said["status"], f"miue-jax: process {said['process']} stopped: {said['reason']}\n")


def _leave(status: int, reason: str, said: str) -> NoReturn:
  """Tells the others to stop, and does so."""
  _ending.acquire()
  stop = {"process": distributed.global_state.process_id, "status": status, "reason": reason}
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # somebody was first, or nobody hears it
    _client().key_value_set(_STOP, json.dumps(stop))
  _depart(status, said)


def _depart(status: int, said: str) -> NoReturn:
  """Leaves once all know: jax's own way out would wait for those who are stuck in a collective."""
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  _write(2, said)
  # Another process may be faster, and take the service along: that is no news any more.
  _end_on_abort(2, "", status)
  with contextlib.suppress(OSError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().wait_at_barrier(f"{_PREFIX}/stopped", 1000 * _FAREWELL_SECONDS)
  os._exit(status)


def _write(descriptor: int, text: str) -> None:
  with contextlib.suppress(OSError):
    os.write(descriptor, text.encode())


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
