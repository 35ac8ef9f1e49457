"""Reports the progress of long runs: log lines, TensorBoard scalars and progress bars.

The package logs to `logging.getLogger("miue_jax")` and its children, and installs no handler that
prints or writes; `logged_to` is for programs.
"""

import contextlib
import datetime
import io
import logging
import os
import pathlib
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import numpy as np
import tqdm
from absl import logging as absl_logging
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from miue_jax.machine import files, processes, terminal, threads

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 30.0  # between log lines inside an epoch
_COUNT_SECONDS = 10.0  # between log lines of `count`
_PACKAGE = pathlib.Path(__file__).parents[1]


class Progress:
  """Reports one stage of several epochs."""

  def __init__(
    self,
    directory: pathlib.Path | None,
    name: str,
    steps: int,
    epochs: int,
    start: int,
    *,
    bar: bool = False,
  ):
    """Starts the clock.

    Args:
      directory: Folder for TensorBoard's event files, or None to write no files.
      name: Name of the stage. It starts every log line and every TensorBoard tag.
      steps: Number of steps of the whole stage.
      epochs: Number of epochs of the whole stage.
      start: First step of this run; above 0 when a stage is resumed.
      bar: Whether to show a progress bar in the terminal or notebook.

    Raises:
      UserError: The folder cannot be written.
    """
    self._name, self._steps, self._epochs, self._start = name, steps, epochs, start
    self._began = self._logged = time.monotonic()
    self._directory, self._writer, self._bar = directory, None, None
    if not processes.is_lead():
      return
    if bar:
      from tqdm import auto  # It warns on import in a notebook without ipywidgets.

      self._bar = auto.tqdm(desc=name, total=steps, initial=start, unit="step")
    if directory is None:
      return
    # tensorboardX.SummaryWriter would write in a thread, where a full disk ends in a traceback, and
    # two of them that start in the same second would share a file.
    files.make_folder(directory)
    with files.reported("write", directory):
      suffix = "." + re.sub("[ /]", "-", name)
      self._writer = event_file_writer.EventsWriter(str(directory / "events"), suffix)

  def tick(self, step: int) -> None:
    """Notes that `step` steps are done; logs it if the log was silent for a while."""
    self._advance(step)
    if time.monotonic() - self._logged >= _QUIET_SECONDS:
      self._log(f"step {step}/{self._steps}", step)

  def report(self, step: int, epoch: int, scalars: dict[str, float]) -> None:
    """Reports the scalars of `epoch`, which ended with `step`.

    Raises:
      UserError: The disk is full.
    """
    values = {tag: f"{value:.4g}" for tag, value in scalars.items()}
    text = "".join(f"  {tag} {value}" for tag, value in values.items())
    self._log(f"epoch {epoch}/{self._epochs}{text}", step)
    self._advance(step)
    if self._bar is not None:
      self._bar.set_postfix(values)
    if self._directory is None or self._writer is None:
      return
    with files.reported("write", self._directory):
      for tag, value in scalars.items():
        content = summary.scalar(f"{self._name}/{tag}", value)
        # pyrefly: ignore[missing-attribute]
        event = event_pb2.Event(wall_time=time.time(), step=epoch, summary=content)
        self._writer.write_event(event)
      self._writer.flush()

  def close(self) -> None:
    """Closes TensorBoard's event file and the progress bar."""
    if self._bar is not None:
      self._bar.close()
    if self._directory is not None and self._writer is not None:
      with files.reported("write", self._directory):
        self._writer.close()

  def _advance(self, step: int) -> None:
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def _log(self, text: str, step: int) -> None:
    self._logged = time.monotonic()
    rate = (step - self._start) / max(self._logged - self._began, 1e-9)
    left = datetime.timedelta(seconds=round((self._steps - step) / rate)) if rate else "unknown"
    logger.info("%s: %s  %.3g steps/s  ETA %s", self._name, text, rate, left)


# Makes the `Progress` of a stage from its name, steps, epochs and first step.
Reporter = Callable[[str, int, int, int], Progress]


def count(verb: str, counts: Iterable[int], total: int) -> None:
  """Consumes the numbers of images done; logs their sum, the rate and the seconds left.

  Args:
    verb: Start of the log lines, such as "decoded".
    counts: Numbers of images, each yielded when these images are done.
    total: Number of all images.
  """
  start = last = time.monotonic()
  done = 0
  for number in counts:
    done += number
    now = time.monotonic()
    if now - last >= _COUNT_SECONDS:
      last = now
      rate = done / (now - start)
      left = (total - done) / rate
      logger.info("%s %d of %d images, %.0f images/s, %.0f s left", verb, done, total, rate, left)


def each_shown(
  work: Callable[[threads.Item], threads.Result],
  items: Sequence[threads.Item] | np.ndarray,
  verb: str,
) -> Iterator[threads.Result]:
  """Does what `threads.each` does, with a progress bar; without a terminal, lines of the log."""
  if os.isatty(2):
    yield from tqdm.tqdm(threads.each(work, items), verb, len(items), unit="image")
    return
  done: list[threads.Result] = []

  def counted() -> Iterator[int]:
    for result in threads.each(work, items):
      done.append(result)
      yield 1

  count(verb, counted(), len(items))
  yield from done


@contextlib.contextmanager
def logged_to(path: pathlib.Path) -> Generator[None]:
  """Writes the log lines of this package and all warnings to `path` as well as to the terminal.

  Only the lead process writes the file. The other processes show warnings in the terminal.
  """
  shown = absl_logging.get_absl_handler().python_handler
  if not processes.is_lead():
    shown.addFilter(_is_warning)
    yield
    return
  stream = io.TextIOWrapper(files.open_to_append(path), "utf-8", "backslashreplace", newline="")
  handler = absl_logging.PythonHandler(stream, terminal.Formatter(absl_logging.PythonFormatter()))
  # A full disk is reported where results are written; the log must not add a traceback per line.
  handler.handleError = lambda record: None
  handler.addFilter(_is_ours)
  show_ours()
  root = logging.getLogger()
  root.addHandler(handler)
  try:
    yield
  finally:
    root.removeHandler(handler)
    with contextlib.suppress(OSError):
      stream.close()


def show_ours() -> None:
  """Shows the log lines of this package and all warnings, and nothing else, in the terminal."""
  absl_logging.get_absl_handler().python_handler.addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
  """Returns whether a record comes from this package or is a warning of a library."""
  return _is_warning(record) or record.pathname.startswith(str(_PACKAGE))


def _is_warning(record: logging.LogRecord) -> bool:
  """Returns whether a record is a warning without a traceback; `main` reports exceptions."""
  return record.levelno >= logging.WARNING and not record.exc_info
