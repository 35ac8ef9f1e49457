"""What a long run tells while it runs: log lines with rate and ETA, TensorBoard scalars."""

import datetime
import pathlib
import time
from collections.abc import Callable

import tensorboardX
from absl import logging

_QUIET_SECONDS = 30.0


class Progress:
  """Reports one stage of several epochs to the log and to TensorBoard."""

  def __init__(self, directory: pathlib.Path, name: str, steps: int, epochs: int, start: int):
    """Starts the clock.

    Args:
      directory: for TensorBoard's event files.
      name: of the stage, in every line and in front of every TensorBoard tag.
      steps: of the whole stage.
      epochs: of the whole stage.
      start: the step that a resumed run starts from.
    """
    self._name, self._steps, self._epochs, self._start = name, steps, epochs, start
    self._began = self._spoke = time.monotonic()
    self._writer = tensorboardX.SummaryWriter(str(directory))

  def tick(self, step: int) -> None:
    """Says where the run is, if nothing was said for a while."""
    if time.monotonic() - self._spoke >= _QUIET_SECONDS:
      self._say(f"step {step}/{self._steps}", step)

  def report(self, step: int, epoch: int, scalars: dict[str, float]) -> None:
    """Reports the scalars of `epoch`, which ended with `step`."""
    values = "".join(f"  {tag} {value:.4g}" for tag, value in scalars.items())
    self._say(f"epoch {epoch}/{self._epochs}{values}", step)
    for tag, value in scalars.items():
      self._writer.add_scalar(f"{self._name}/{tag}", value, epoch)

  def close(self) -> None:
    """Flushes TensorBoard's event file."""
    self._writer.close()

  def _say(self, what: str, step: int) -> None:
    self._spoke = time.monotonic()
    rate = (step - self._start) / max(self._spoke - self._began, 1e-9)
    left = datetime.timedelta(seconds=round((self._steps - step) / rate)) if rate else "unknown"
    logging.info("%s: %s  %.3g steps/s  ETA %s", self._name, what, rate, left)


# Makes the reporter of a stage from (name, steps, epochs, first step).
Reporter = Callable[[str, int, int, int], Progress]
