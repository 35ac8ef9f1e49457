"""What a long run tells while it runs: log lines with rate and ETA, TensorBoard scalars."""

import datetime
import pathlib
import time

import tensorboardX
from absl import logging

_QUIET_SECONDS = 30.0


class Progress:
  """Reports one stage.

  Attributes:
    name: of the stage, in every line and in front of every TensorBoard tag.
  """

  def __init__(self, directory: pathlib.Path, name: str, total: int, unit: str, start: int):
    """Starts the clock.

    Args:
      directory: for TensorBoard's event files.
      name: of the stage.
      total: positions (steps) in the whole stage.
      unit: what an epoch-sized step of the log is called, e.g. "epoch 3/20".
      start: position that a resumed run starts from.
    """
    self.name = name
    self._total, self._unit, self._start = total, unit, start
    self._began = self._spoke = time.monotonic()
    self._writer = tensorboardX.SummaryWriter(str(directory))

  def tick(self, position: int) -> None:
    """Says where the run is, if nothing was said for a while."""
    if time.monotonic() - self._spoke >= _QUIET_SECONDS:
      self._say(position, {})

  def report(self, position: int, count: int, scalars: dict[str, float]) -> None:
    """Reports scalars at `position`, the end of epoch `count`."""
    self._say(position, scalars, count)
    for tag, value in scalars.items():
      self._writer.add_scalar(f"{self.name}/{tag}", value, count)

  def close(self) -> None:
    """Flushes TensorBoard's event file."""
    self._writer.close()

  def _say(self, position: int, scalars: dict[str, float], count: int | None = None) -> None:
    self._spoke = time.monotonic()
    rate = (position - self._start) / max(self._spoke - self._began, 1e-9)
    left = datetime.timedelta(seconds=round((self._total - position) / rate)) if rate else "?"
    where = f"step {position}/{self._total}" if count is None else f"{self._unit} {count}"
    values = "".join(f"  {tag} {value:.4g}" for tag, value in scalars.items())
    logging.info("%s  %s%s  %.3g steps/s  ETA %s", self.name, where, values, rate, left)
