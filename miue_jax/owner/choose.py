"""Chooses everything that an owner of pictures need not know from the pictures themselves."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from miue_jax.machine.terminal import counted
from miue_jax.methods import METHODS, AlternatingSettings
from miue_jax.settings import schema
from miue_jax.settings.config import Config, Fit, Model
from miue_jax.settings.errors import UserError

# Pixels a side up to which every picture in colour gets a separate perturbation. Larger pictures
# and gray ones get the pattern of their class (`owner.patterns`): networks then learn less from
# them (docs/folders.md).
SMALL_SIDE = 32
# The method that makes the perturbations. Any entry of METHODS with a source model can stand here.
METHOD = "miue"
# The same for pictures that are compressed again. The cells of a small picture's perturbation are
# single pixels, and JPEG removes such changes unless they are made to survive it.
RECOMPRESSED, _TRANSFORMATIONS = "miue_robust", ("none", "jpeg75")
USELESS = (
  "--recompressed changes nothing here: it is for pictures in colour of at most "
  f"{SMALL_SIDE} pixels."
)
# Pixels a side of a perturbation before it is carried to the size of a picture, at most. Small
# pictures get one as large as they are: from a larger one they would lose the finest detail.
SIZE = 64
_OLD_SIZE = 32  # of keys that do not have it
_SMALLEST = 8
# Cells a side of a sign in the pattern of a larger picture. Interpolation would take most of the
# strength from single cells.
_BLOCK = 2
STRENGTHS = {"low": 4 / 255, "medium": 8 / 255, "high": 16 / 255}
STRENGTH = "medium"

# Part of the perturbation's strength that smooth areas of large pictures in colour get, because
# changes are seen there first. The reduced strength costs protection (docs/folders.md).
_SMOOTH_AREAS = 0.5
_LARGE_SIDE = 128  # pixels; smaller pictures keep all of it
# Pixels a side of what the victims of the proof see. Pictures that are as small as their
# perturbation are seen at their own size, at which they are also used by those who collect them.
PROOF_SIZE = 64
FEW = 200  # pictures a class; fewer were not protected (docs/folders.md), and prove little
# Measured results for pictures that are larger than `SMALL_SIDE`.
LARGER = (
  f"In our measurements, pictures of more than {SMALL_SIDE} pixels a side were protected in part "
  "at most: from 500 a class (4 classes, 64 to 128 pixels) networks learned to recognise 53 %, "
  "where originals give 88 and guessing 25 %. Their pattern repeats, and anyone who knows that can "
  "subtract it: networks then recognised 90 %. Smaller pictures are protected better: from 200 a "
  "class of 32 x 32 pixels networks learned to recognise 22 to 28 %, where originals give 58 and "
  "guessing 10 %."
)
_PATTERNS = "autocorrelation"  # how `patterns.drawn` draws; another way needs another name
HELD_OUT = 0.2  # part of the pictures on which victims of the proof are tested
LEAST = 5  # pictures a class that a proof needs
SMALL = {"name": "small_cnn", "width": 24, "normalise": "none"}  # source model of few pictures
LARGE = {"name": "resnet18", "width": 16, "normalise": "none"}  # of many
_MANY = 5000  # pictures
_PASSES = 72_000  # pictures that the source model sees, at least, over all epochs
_EPOCHS = 16, 50  # least and most epochs of the generation
_LEAST_EPOCHS = 4  # with little time
# Updates of a victim of the proof: after fewer, networks have learned little from any pictures.
_UPDATES = 1600
_LONG_EPOCHS = 12, 60  # least and most epochs of a victim that trains long
_SHORT = 4  # a part of these epochs
# Batch sizes of victims, each with the number of pictures below which it is used.
_VICTIM_BATCHES = {8: 400, 32: 4000}
_LARGEST_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Victim:
  """Describes one training of the proof: a network and how long it trains.

  Attributes:
    kind: Kind of the network in words.
    network: Name of the network.
    width: Its width.
    epochs: Epochs of its training.
    start_from: File of its initial weights; empty starts from random ones.
  """

  kind: str
  network: str
  width: int
  epochs: int
  start_from: str = ""

  @property
  def label(self) -> str:
    """Returns the name of the victim in sentences and tables."""
    started = ", from pretrained weights," if self.start_from else ""
    return f"{self.kind} that trains{started} for {self.epochs} epochs"


@dataclasses.dataclass(frozen=True)
class Choice:
  """Holds everything that is chosen for a folder of pictures.

  Attributes:
    method: Settings of the method.
    victims: Victims of the proof.
    seen: Pixels a side of what victims see.
    seed: Seed of every random draw.
    gray: Whether the pictures are gray.
    patterned: Whether pictures get patterns of their classes (`owner.patterns`) with the budget of
      `method`, without its source model.
    block: Cells a side of a sign of these patterns.
    size: Pixels a side of the perturbation before it is carried to the size of a picture.
    floor: Strength of the perturbation in smooth areas, as a part of the whole.
    limited: Whether a time has lowered the numbers of epochs.
  """

  method: AlternatingSettings
  victims: tuple[Victim, ...]
  seen: int
  seed: int
  gray: bool = False
  patterned: bool = False
  block: int = 1
  size: int = _OLD_SIZE
  floor: float = _SMOOTH_AREAS
  limited: bool = False

  @property
  def recompressed(self) -> bool:
    """Returns whether the perturbation is made to survive JPEG."""
    return self.method.name == RECOMPRESSED

  @property
  def compressible(self) -> bool:
    """Returns whether `--recompressed` would change something that it has not changed yet."""
    return not (self.patterned or self.recompressed or self.seen > SMALL_SIDE)

  @property
  def stronger(self) -> str:
    """Returns the option of a larger change, as text for advice; empty if that would not help.

    Networks learn no less from small pictures at high strength than at medium strength
    (docs/folders.md).
    """
    best = "high" if self.patterned else "medium"
    if self.method.epsilon > STRENGTHS[best] - 1e-9:
      return ""
    return f"--strength {best} (which is seen more easily)"

  def stored(self) -> dict[str, Any]:
    """Returns JSON values, from which `restored` makes the same choice."""
    return dataclasses.asdict(self) | {"patterns": _PATTERNS}

  @classmethod
  def restored(cls, values: Mapping[str, Any]) -> "Choice":
    """Returns a choice from values that are not trusted.

    Raises:
      UserError: The values are not those of a choice.
    """
    try:
      settings = dict(values["method"])
      method = schema.make(METHODS[settings["name"]].settings, settings)
      victims = tuple(Victim(**victim) for victim in values["victims"])
      seen, seed = int(values["seen"]), int(values["seed"])
      # Keys of older versions do not have the following values.
      gray, size = bool(values.get("gray", False)), int(values.get("size", _OLD_SIZE))
      patterned, block = bool(values.get("patterned", gray)), int(values.get("block", 1))
      floor = float(values.get("floor", _SMOOTH_AREAS))
      limited = bool(values.get("limited", False))
      if patterned and values.get("patterns") != _PATTERNS:
        raise UserError("it has other patterns of classes")
      return cls(method, victims, seen, seed, gray, patterned, block, size, floor, limited)
    except (KeyError, TypeError, ValueError, UserError) as error:
      raise UserError(
        f"The key holds no settings that this version of miue-jax can use ({error}): restore "
        "works, but new pictures need another OUT."
      ) from error

  def fit(self, victim: Victim, count: int) -> Fit:
    """Returns the settings with which a victim learns from `count` pictures."""
    return Fit(
      epochs=victim.epochs,
      batch_size=_victim_batch(count),
      # A larger learning rate would lose pretrained weights.
      learning_rate=0.01 if victim.start_from else 0.1,
      weight_decay=5e-4,
      augment="crop_flip",
      start_from=victim.start_from,
    )

  def config(self, victim: Victim, count: int) -> Config:
    """Returns a config for a plan of a victim that learns from `count` pictures."""
    model = Model(name=victim.network, width=victim.width, normalise="none")
    return Config(
      "owner", self.seed, method=self.method, victim=model, victim_fit=self.fit(victim, count)
    )


def choose(
  counts: Mapping[str, int],
  strength: str,
  side: int,
  seed: int,
  *,
  gray: bool = False,
  recompressed: bool = False,
) -> Choice:
  """Returns the choice for a folder of pictures.

  Args:
    counts: Numbers of pictures, by the names of the classes.
    strength: One of `STRENGTHS`.
    side: Shorter side of a usual picture, in pixels.
    seed: Seed of every random draw.
    gray: Whether the pictures are gray.
    recompressed: Whether a site compresses the pictures again as JPEG.

  Raises:
    UserError: There are too few classes or pictures.
  """
  total = sum(counts.values())
  if len(counts) < 2:
    raise UserError(
      "All pictures are in one class, and a network learns from differences between classes: sort "
      "them into one folder for each class, or give --labels FILE.csv or --clusters NUMBER."
    )
  if total < 4:
    raise UserError(f"{total} pictures are too few: add some, until each class has at least 2.")
  size = min(max(side, _SMALLEST), SIZE)
  large = side > SMALL_SIDE
  fine = recompressed and not gray and not large
  return Choice(
    _method(total, STRENGTHS[strength], RECOMPRESSED if fine else METHOD),
    _victims(total),
    size if side <= size else PROOF_SIZE,
    seed,
    gray,
    patterned=gray or large,
    block=_BLOCK if large else 1,
    size=size,
    floor=_SMOOTH_AREAS if side > _LARGE_SIDE and not gray else 1.0,
  )


def _method(total: int, epsilon: float, name: str) -> AlternatingSettings:
  source = min(64, 2 ** int(np.log2(max(total // 4, 2))))
  batch = min(256, -(-total // source) * source)
  least, most = _EPOCHS
  values: dict[str, Any] = {
    "name": name,
    "epsilon": epsilon,
    "epochs": min(max(least, round(_PASSES / total)), most),
    "step_size_start": epsilon / 5,
    "step_size_end": epsilon * 0.075,
    "augment": "crop_flip",
    "augment_poisoned": True,
    "batch_size": batch,
    "model": LARGE if total >= _MANY else SMALL,
    "source": {"batch_size": source, "weight_decay": 5e-4, "augment": "crop_flip"},
    "checkpoint_every": 1,
  }
  if name == RECOMPRESSED:
    values["transformations"] = _TRANSFORMATIONS
  return schema.make(METHODS[name].settings, values)


def _victims(total: int) -> tuple[Victim, ...]:
  count = learning(total)
  least, most = _LONG_EPOCHS
  long = min(max(least, math.ceil(_UPDATES * _victim_batch(count) / count)), most)
  short = long // _SHORT
  return (
    Victim("a small network", "small_cnn", 24, short),
    Victim("a small network", "small_cnn", 24, long),
    Victim("a ResNet", "resnet18", 12, long // 2),
  )


def learning(total: int) -> int:
  """Returns the number of pictures, of `total`, that victims of the proof learn from, at least."""
  return total - round(HELD_OUT * total)


def _victim_batch(count: int) -> int:
  """Returns the batch size of a victim that learns from `count` pictures.

  It is a multiple of 8 if there are at least 8 pictures, so that devices can share a batch.
  """
  batch = next((size for size, most in _VICTIM_BATCHES.items() if count < most), _LARGEST_BATCH)
  batch = min(batch, count)
  return batch - batch % 8 or batch


def within(choice: Choice, making: float, proving: float, seconds: float) -> Choice:
  """Returns a choice with as many epochs as fit into a time.

  Args:
    choice: The choice without a limit.
    making: Seconds that its generation takes.
    proving: Seconds that its proof takes.
    seconds: Seconds that both may take.
  """
  share = min(1.0, seconds / max(making + proving, 1e-9))
  epochs = max(_LEAST_EPOCHS, int(choice.method.epochs * share))
  victims = (
    dataclasses.replace(victim, epochs=max(2, int(victim.epochs * share)))
    for victim in choice.victims
  )
  method = dataclasses.replace(choice.method, epochs=min(epochs, choice.method.epochs))
  # With little time two victims can become the same.
  fitting = dataclasses.replace(choice, method=method, victims=tuple(dict.fromkeys(victims)))
  return dataclasses.replace(fitting, limited=fitting != choice)


def advice(counts: Mapping[str, int], side: int, *, narrow: bool = False) -> list[str]:
  """Returns what can and cannot be done with such pictures, a sentence or more each.

  Args:
    counts: Numbers of pictures, by the names of the classes.
    side: Shorter side of a usual picture, in pixels.
    narrow: Whether pictures of 16 bits use less than a quarter of their range.
  """
  found = []
  name = min(counts, key=lambda name: counts[name])
  if counts[name] < FEW:
    said = (
      f"Class {name!r} has only {counted(counts[name], 'picture')}. With fewer than {FEW} a class, "
      "expect little or no protection: networks that were tried learned nearly as much from such "
      "pictures as from originals. "
    )
    if counts[name] < LEAST:
      said += f"With fewer than {LEAST} nothing can be tested."
    else:
      said += "The verdict states how uncertain it is."
    found.append(said)
  if side > SMALL_SIDE:
    found.append(LARGER)
  if narrow:
    found.append(
      "Pictures of 16 bits use less than a quarter of their range. The budget is a part of the "
      "whole range, so the change will be strong: stretch them to all 16 bits first."
    )
  return found
