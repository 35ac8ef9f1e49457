"""What a long run tells while it runs: log lines with rate and ETA, TensorBoard scalars."""

import contextlib
import datetime
import pathlib
import time
from collections.abc import Callable, Iterator

from absl import logging
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from miue_jax.machine import files, processes

_QUIET_SECONDS = 30.0
_PACKAGE = pathlib.Path(__file__).parents[1]


class Progress:
  """Reports one stage of several epochs to the log and to TensorBoard."""

  def __init__(self, directory: pathlib.Path, name: str, steps: int, epochs: int, start: int):
    """Starts the clock.

    Args:
      directory: for TensorBoard's event files, which the lead process writes.
      name: of the stage, in every line and in front of every TensorBoard tag.
      steps: of the whole stage.
      epochs: of the whole stage.
      start: the step that a resumed run starts from.

    Raises:
      UserError: the disk is full, read-only or not ours.
    """
    self._name, self._steps, self._epochs, self._start = name, steps, epochs, start
    self._began = self._spoke = time.monotonic()
    self._directory, self._writer = directory, None
    if not processes.is_lead():
      return
    # Not tensorboardX.SummaryWriter: it writes in a thread, where a full disk ends in a traceback,
    # and two of them that start in one second share a file.
    with files.reported("write", directory):
      directory.mkdir(parents=True, exist_ok=True)
      suffix = "." + name.replace(" ", "-")
      self._writer = event_file_writer.EventsWriter(str(directory / "events"), suffix)

  def tick(self, step: int) -> None:
    """Says where the run is, if nothing was said for a while."""
    if time.monotonic() - self._spoke >= _QUIET_SECONDS:
      self._say(f"step {step}/{self._steps}", step)

  def report(self, step: int, epoch: int, scalars: dict[str, float]) -> None:
    """Reports the scalars of `epoch`, which ended with `step`.

    Raises:
      UserError: the disk is full.
    """
    values = "".join(f"  {tag} {value:.4g}" for tag, value in scalars.items())
    self._say(f"epoch {epoch}/{self._epochs}{values}", step)
    if self._writer is None:
      return
    with files.reported("write", self._directory):
      for tag, value in scalars.items():
        content = summary.scalar(f"{self._name}/{tag}", value)
        event = event_pb2.Event(wall_time=time.time(), step=epoch, summary=content)
        self._writer.write_event(event)
      self._writer.flush()

  def close(self) -> None:
    """Closes TensorBoard's event file."""
    if self._writer is not None:
      with files.reported("write", self._directory):
        self._writer.close()

  def _say(self, what: str, step: int) -> None:
    self._spoke = time.monotonic()
    rate = (step - self._start) / max(self._spoke - self._began, 1e-9)
    left = datetime.timedelta(seconds=round((self._steps - step) / rate)) if rate else "unknown"
    logging.info("%s: %s  %.3g steps/s  ETA %s", self._name, what, rate, left)


# Makes the reporter of a stage from (name, steps, epochs, first step).
Reporter = Callable[[str, int, int, int], Progress]


@contextlib.contextmanager
def logged_to(path: pathlib.Path) -> Iterator[None]:
  """Writes this package's log lines and all warnings to `path` as well as to the terminal.

  Only the lead process writes the file; of the others the terminal shows the warnings.
  """
  terminal = logging.get_absl_handler().python_handler
  if not processes.is_lead():
    terminal.addFilter(_warning)
    yield
    return
  with files.reported("write", path):
    stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed with the handler)
  handler = logging.PythonHandler(stream)
  # A full disk is for the results to report; the log must not add a traceback to each line.
  handler.handleError = lambda record: None
  for target in (handler, terminal):
    target.addFilter(_ours)
  logger = logging.get_absl_logger()
  logger.addHandler(handler)
  try:
    yield
  finally:
    logger.removeHandler(handler)
    with contextlib.suppress(OSError):
      stream.close()


def _ours(record) -> bool:
  """Libraries log to absl's logger, too: keep what they say at INFO out of the way."""
  return _warning(record) or record.pathname.startswith(str(_PACKAGE))


def _warning(record) -> bool:
  """Without tracebacks: the exception itself arrives here and is reported."""
  return record.levelno >= logging.logging.WARNING and not record.exc_info
