"""Runs several processes as one program: they start together, agree and stop together.

They are connected by jax's coordination service, which runs in process 0 (the lead). All processes
run the same program on their own devices. Only the lead writes files and output. A workdir must be
on storage that all processes share.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Mapping
from typing import Any, NoReturn

import jax
from jax._src import distributed  # The service has no public client; Orbax also uses this one.

from miue_jax.machine import exits, terminal
from miue_jax.settings.errors import UserError, first_line

FAILED = 2  # exit status of a problem that the user can solve
LOST = 3  # exit status if another process died or cannot be reached

# A process without a heartbeat for this time counts as dead; live ones send several of them.
_HEARTBEAT_SECONDS = 30
_FAREWELL_SECONDS = 5  # for the other processes to read why this one stops
_SLICE_SECONDS = 1  # of one wait for a message; signals are handled between two waits
_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_DIED = (
  "miue-jax: another process died, or cannot be reached any more: start all again, and they "
  "continue.\n"
)
_PREFIX = "miue_jax"
_STOP = f"{_PREFIX}/stop"

_logger = logging.getLogger(__name__)
_calls = itertools.count()
_ending = threading.Lock()  # acquired once, by the thread that ends this process
_handlers = []  # callbacks from C, which must not be garbage-collected


class Interrupted(Exception):  # noqa: N818 (not an error)
  """Says that a signal arrived and the state is saved, so that the program can end.

  All processes agree on it.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


def count() -> int:
  """Returns the number of processes, without starting a backend."""
  return distributed.global_state.num_processes


def is_lead() -> bool:
  """Returns whether this process is the lead, which writes all files."""
  return distributed.global_state.process_id == 0


def announced(environment: Mapping[str, str]) -> bool:
  """Returns whether a launcher's variables say that this process is one of several.

  The known launchers are those that set a variable of jax's own, Slurm steps and Open MPI jobs of
  more than one task, and TPU hosts. TPU hosts are counted by their names on Kubernetes. Elsewhere a
  TPU is enough, and jax then asks the machine's metadata for the number of hosts.
  """
  several = (
    ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),  # A batch script outside a step lacks the first.
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
  )
  hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
  if any(name in environment for name in _VARIABLES):
    return True
  if any(rank in environment and int(environment.get(size, 1)) > 1 for rank, size in several):
    return True
  if hosts is not None:
    return "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1
  # jax sets the variable on import if the machine has no TPU.
  return "TPU_SKIP_MDS_QUERY" not in environment and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def together(mode: str, timeout: float) -> Generator[None]:
  """Connects the processes; if one of them ends early inside the block, all end with its status.

  The block must be entered before any other use of jax. It changes nothing for a single process. A
  process that ends early prints the reason and exits without unwinding. The status is `FAILED` if
  not all processes arrived in time, `LOST` if a process died, and otherwise that of the process
  that ended first.

  Args:
    mode: `auto` connects if a launcher announces several processes, `on` always, `off` never.
    timeout: Seconds in which all processes must arrive.

  Raises:
    UserError: No variable tells how to reach the other processes.
    Interrupted: The block raised it; all processes agree on a signal.
  """
  if mode == "off" or (mode == "auto" and not announced(os.environ)):
    yield
    return
  _connect(timeout)
  if count() == 1:
    yield
    return
  _end_on_abort(2, _DIED, LOST)
  over = threading.Event()
  listener = threading.Thread(target=_listen, args=(over,), daemon=True)
  listener.start()
  try:
    with exits.telling(lambda signum: _leave(128 + signum, signal.Signals(signum).name, "")):
      yield
      from_lead(lambda: None)  # The lead may still be writing, and the service ends with it.
  except Interrupted:
    raise
  except UserError as error:
    _leave(FAILED, str(error), f"miue-jax: {error}\n")
  except jax.errors.JaxRuntimeError as error:
    reason = f"another process died, or a computation failed ({first_line(error)})"
    _leave(LOST, reason, f"miue-jax: {reason}\n")
  except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if not status:
      raise
    _leave(status, signal.Signals(status - 128).name if status > 128 else f"status {status}", "")
  except Exception as error:
    _leave(1, f"{type(error).__name__}: {first_line(error)}", traceback.format_exc())
  finally:
    over.set()
    listener.join()  # It must not outlive the client.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      jax.distributed.shutdown()
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def from_lead(make: Callable[[], Any]) -> Any:
  """Calls `make()` on the lead process and returns its value on every process.

  Every process must make the same calls in the same order. The value must be a JSON value.
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
  """Waits until all processes have checked that their values are those of the lead.

  Args:
    values: JSON values by their names in the error message.
    advice: The end of the error message: what to do about a difference.

  Raises:
    UserError: The values of this process differ from those of the lead.
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
  """Starts the service or connects to it; all processes return at the same time.

  Raises:
    UserError: The launcher's variables are incomplete, or process 0 cannot open its port.
  """
  address, *numbers = (os.environ.get(name) for name in _VARIABLES)
  given = [name for name in _VARIABLES if name in os.environ]
  missing = [name for name in _VARIABLES if name not in given]
  if given and missing:
    there, lacking = (f"{' and '.join(x)} {'are' if x[1:] else 'is'}" for x in (given, missing))
    raise UserError(f"{there} set but {lacking} not: set all.")
  settings: dict[str, Any] = {}
  try:
    total, process = (int(number or "") for number in numbers)
    settings |= {"num_processes": total, "process_id": process}
  except ValueError:
    if address:
      raise UserError(
        f"JAX_NUM_PROCESSES={numbers[0]!r} and JAX_PROCESS_ID={numbers[1]!r} must be numbers."
      ) from None
  if address:
    settings["cluster_detection_method"] = "deactivate"  # The variables tell everything.
    if settings["process_id"] == 0:
      _require_free_port(address)
  logging.getLogger("jax._src.distributed").setLevel(logging.WARNING)
  _logger.info("Waiting for the other processes; --distributed=off runs this one alone.")
  # Its handler of SIGTERM would replace that of `signals.stop_on_signal`.
  jax.config.update("jax_enable_preemption_service", False)
  with _hidden_if_it_fails() as stderr:
    _end_on_abort(
      stderr,
      f"miue-jax: Not all processes met at {address or 'the coordinator'} within {timeout:g} s: "
      "check that all were started, the address and the firewall, or raise "
      "--distributed_timeout; a process that is alone needs --distributed=off.\n",
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
        f"The processes cannot be connected ({first_line(error)}): set JAX_COORDINATOR_ADDRESS "
        "(with a free port), JAX_NUM_PROCESSES and JAX_PROCESS_ID, or --distributed=off."
      ) from error
    finally:
      signal.signal(signal.SIGABRT, signal.SIG_DFL)


def _require_free_port(address: str) -> None:
  """Raises a UserError if the service's port is taken, which can be a segmentation fault in jax."""
  port = int(address.rpartition(":")[2])
  try:
    socket.create_server(("", port)).close()
  except OSError as error:
    raise UserError(
      f"Process 0 cannot open port {port} of JAX_COORDINATOR_ADDRESS={address} ({error.strerror}): "
      "choose a free port, the same for all processes."
    ) from error


@contextlib.contextmanager
def _hidden_if_it_fails() -> Generator[int]:
  """Hides the stderr of native code if the block fails; yields the terminal's descriptor."""
  sys.stderr.flush()
  stderr = os.dup(2)
  with tempfile.TemporaryFile() as hidden:
    os.dup2(hidden.fileno(), 2)
    try:
      yield stderr
      hidden.seek(0)
      os.write(stderr, hidden.read())
    finally:
      sys.stderr.flush()
      os.dup2(stderr, 2)
      os.close(stderr)


def _end_on_abort(stderr: int, text: str, status: int) -> None:
  """Makes an abort of native code print a sentence and end this process with a status.

  The client of the service answers every failure with an abort in a thread of C++. Python's signal
  handlers run too late for that, and the client's own callback cannot be set from Python.
  """

  def end(signum: int) -> None:
    del signum
    _write(stderr, text)
    os._exit(status)

  _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(end))
  install = ctypes.CDLL(None).signal
  install.argtypes, install.restype = (ctypes.c_int, type(_handlers[-1])), ctypes.c_void_p
  install(signal.SIGABRT, _handlers[-1])


def _wait(key: str) -> str:
  """Waits for a value without a limit; the death of a process is noticed elsewhere."""
  while (text := _get(key)) is None:
    pass
  return text


def _get(key: str) -> str | None:
  """Waits for a value for `_SLICE_SECONDS`; returns None if it did not arrive."""
  try:
    return _client().blocking_key_value_get(key, 1000 * _SLICE_SECONDS)
  except jax.errors.JaxRuntimeError as error:
    if "DEADLINE_EXCEEDED" in str(error):
      return None
    raise


def _listen(over: threading.Event) -> None:
  """Ends this process when another one stops, even if the main thread is blocked."""
  while not over.is_set():
    try:
      text = _get(_STOP)
    except jax.errors.JaxRuntimeError:
      return  # The service is lost. Whatever waits for it reports that.
    if text is not None and _ending.acquire(blocking=False):
      stop = json.loads(text)
      _exit(stop["status"], f"miue-jax: process {stop['process']} stopped: {stop['reason']}\n")


def _leave(status: int, reason: str, text: str) -> NoReturn:
  """Tells the other processes to stop, prints `text` and ends this process."""
  _ending.acquire()
  stop = {"process": distributed.global_state.process_id, "status": status, "reason": reason}
  # It fails if another process was first or none is left.
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().key_value_set(_STOP, json.dumps(stop))
  _exit(status, text)


def _exit(status: int, text: str) -> NoReturn:
  """Prints `text` and ends this process once all processes know that they stop.

  The shutdown of jax would wait for processes that are blocked in a collective.
  """
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
  _write(2, text)
  # Another process may end first and take the service with it: that needs no second message.
  _end_on_abort(2, "", status)
  with contextlib.suppress(OSError):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().wait_at_barrier(f"{_PREFIX}/stopped", 1000 * _FAREWELL_SECONDS)
  os._exit(status)


def _write(descriptor: int, text: str) -> None:
  with contextlib.suppress(OSError):
    os.write(descriptor, terminal.printable(text).encode(errors="backslashreplace"))
