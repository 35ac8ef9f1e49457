"""Proves a protection: victims learn from the published files as a scraper would load them."""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from miue_jax import models
from miue_jax.data.sampling import Draw, stratified
from miue_jax.experiment import api
from miue_jax.machine import files, reading
from miue_jax.machine.terminal import counted
from miue_jax.owner.choose import HELD_OUT, LEAST, Choice, Victim
from miue_jax.owner.private import Private
from miue_jax.report import verdict
from miue_jax.report.verdict import Verdict
from miue_jax.settings.errors import UserError
from miue_jax.train import pretrained as weights_files

ORIGINALS, PUBLISHED = "originals", "published"
_CONFIDENCE = 0.95
_EQUAL = 20  # held-out pictures that any class may have
# Text about when a victim stops, which follows its label, and the column of its accuracy by then.
MOMENTS = {"": "test_accuracy", ", at its best epoch": "peak_test_accuracy"}

_UNKNOWN = "Add pictures: victims learn too little from the originals to compare with."


@dataclasses.dataclass(frozen=True)
class Trial:
  """Holds the accuracies that one victim reached.

  Attributes:
    victim: What was trained, and whether its last or its best epoch counts.
    published: Accuracy after training on published pictures, in percent.
    originals: Accuracy after training on the originals, in percent.
  """

  victim: str
  published: float
  originals: float


def prove(
  choice: Choice, store: Private, originals: np.ndarray, published: np.ndarray, labels: np.ndarray
) -> Verdict:
  """Trains victims and returns the verdict, which is stored as well.

  A part is held out (`held_out`); its originals are the test.

  Args:
    choice: The choice.
    store: The private folder, where rows and interrupted trainings are kept.
    originals: Originals as victims see them, uint8 `[N, s, s, 3]`.
    published: The published files, loaded in the same way.
    labels: Classes, `[N]`.
  """
  counts = np.bincount(labels)
  if (least := min(counts[counts > 0], default=0)) < LEAST:
    found = Verdict(
      verdict.UNKNOWN,
      f"A class has only {counted(least, 'picture')}; with fewer than {LEAST} nothing can be "
      "tested. The pictures are perturbed all the same.",
    )
    keep(store, found, [], len(labels))
    return found
  tested = held_out(labels, choice.seed)
  folder = store.proof / content_of(originals, published, labels)
  found_by = []
  for number, victim in enumerate(choice.victims):
    place = folder / str(number)
    found_by += compared(choice, victim, originals, published, labels, tested, workdir=place)
  found = judged(choice, found_by, labels[tested])
  keep(store, found, found_by, len(labels))
  for other in reading.entries(store.proof):
    if other.name != folder.name:
      shutil.rmtree(store.proof / other.name, ignore_errors=True)
  return found


def content_of(*arrays: np.ndarray) -> str:
  """Returns a short name for what victims learn from, by which interrupted work is found again."""
  return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def compared(
  choice: Choice,
  victim: Victim,
  originals: np.ndarray,
  published: np.ndarray,
  labels: np.ndarray,
  tested: np.ndarray,
  *,
  sees: str = "",
  workdir: pathlib.Path | None = None,
) -> list[Trial]:
  """Trains a victim on originals and on published files, and tests both on held-out originals.

  Args:
    choice: The choice.
    victim: The victim.
    originals: Originals as the victim sees them, uint8 `[N, s, s, 3]`.
    published: The published files, loaded in the same way.
    labels: Classes, `[N]`.
    tested: Mask of the held-out pictures, bool `[N]`.
    sees: What the victim sees, to follow its label.
    workdir: Folder for rows and states; None writes nothing.

  Returns:
    The trials of its last and of its best epoch.
  """
  rows = rows_of(
    choice,
    victim,
    {ORIGINALS: originals[~tested], PUBLISHED: published[~tested]},
    labels[~tested],
    (originals[tested], labels[tested]),
    workdir=workdir,
  )
  by_name = {row["method"]: row for row in rows}
  return [
    Trial(victim.label + sees + said, by_name[PUBLISHED][column], by_name[ORIGINALS][column])
    for said, column in MOMENTS.items()
  ]


def rows_of(
  choice: Choice,
  victim: Victim,
  images: dict[str, np.ndarray],
  labels: np.ndarray,
  test: tuple[np.ndarray, np.ndarray],
  **more: Any,
) -> list[dict[str, Any]]:
  """Returns the rows of a victim on sets of pictures; `more` goes to `api.evaluate`."""
  recipe = dataclasses.asdict(choice.fit(victim, len(labels)))
  return api.evaluate(
    images,
    labels,
    test,
    victims=(victim.network,),
    seeds=(choice.seed,),
    width=victim.width,
    normalise="none",
    **recipe,
    **more,
  )


def held_out(labels: np.ndarray, seed: int) -> np.ndarray:
  """Returns a mask of the held-out pictures, bool `[N]`: up to a fifth, nearly balanced.

  On equal numbers of each class, a victim that always names the largest class is no better than
  guessing. Up to `_EQUAL` pictures of a class may be held out, however few another class has.
  """
  drawn = stratified(labels, round(HELD_OUT * len(labels)), seed, Draw.HELD_OUT)
  drawn = np.random.default_rng(seed).permutation(drawn)
  counts = np.bincount(labels[drawn])
  most, chosen = max(_EQUAL, counts[counts > 0].min()), np.zeros(len(labels), bool)
  for label in np.unique(labels):
    chosen[drawn[labels[drawn] == label][:most]] = True
  return chosen


def pretrained(choice: Choice, weights: pathlib.Path, classes: int) -> tuple[Victim, ...]:
  """Returns the victims of a choice whose networks these weights fit, to start from them.

  The weights are in a file that `--mode=pretrain` wrote.

  Raises:
    UserError: The file cannot be read, or no victim has such a network.
  """
  variables, image, found = weights_files.load(weights), (choice.seen, choice.seen, 3), []
  for victim in choice.victims:
    module = models.build(choice.config(victim, LEAST).victim, classes, image)
    with contextlib.suppress(UserError):  # another network
      weights_files.check(variables, module, image)
      found.append(dataclasses.replace(victim, start_from=str(weights)))
  if not found:
    networks = sorted({f"{victim.network} of width {victim.width}" for victim in choice.victims})
    raise UserError(
      f"{weights} holds the weights of another network: pretrain {' or '.join(networks)} on images "
      f"of {choice.seen} pixels, with normalise=none."
    )
  return tuple(found)


def judged(choice: Choice, trials: Sequence[Trial], tested: np.ndarray) -> Verdict:
  """Returns the verdict: the strongest victim of each side decides, as a scraper would choose it.

  If each victim were compared with itself, one that learns little from both sets could decide by
  chance.

  Args:
    choice: The choice, which tells what is left to try.
    trials: What victims learned.
    tested: Classes of the held-out pictures. Guessing names the most frequent of them.
  """
  chance = chance_of(tested)
  best = max(trial.originals for trial in trials)
  if best - chance < verdict.LEARNS_FROM:
    return Verdict(
      verdict.UNKNOWN,
      f"Networks trained on the originals recognise only {best:.0f} % of {len(tested)} held-out "
      f"pictures, and guessing gives {chance:.0f} %.",
      (_UNKNOWN,),
    )
  worst = max(trials, key=lambda trial: trial.published)
  judgement = verdict.judge((worst.published - chance) / (best - chance))
  low, high = interval(worst.published, len(tested))
  sentence = (
    f"The strongest of {len(trials)} attempts to learn from the published pictures recognises "
    f"{worst.published:.0f} % (95 % interval {low:.0f} to {high:.0f} %) of {len(tested)} pictures "
    f"that it has not seen; the strongest with the originals recognises {best:.0f} %, and guessing "
    f"gives {chance:.0f} %."
  )
  notes = [f"The strongest attempt was {worst.victim}."]
  if judgement != verdict.PROTECTED:
    notes.append(_next(choice, judgement, worst))
  return Verdict(judgement, sentence, tuple(notes))


def _next(choice: Choice, judgement: str, worst: Trial) -> str:
  """Returns what to do after a verdict that was decided by a victim."""
  change = choice.stronger
  if "JPEG" in worst.victim and choice.compressible:
    change = "--recompressed"
  options = [f"with {change}"] if change else []
  if choice.limited:
    options.append("without --time")
  steps = [f"protect into a new folder {' and '.join(options)}"] if options else []
  if judgement != verdict.PARTLY:
    return f"Do not rely on it: {', or '.join([*steps, 'add pictures'])}."
  step = steps[0] if steps else "add pictures"
  return f"{step[0].upper()}{step[1:]}."


def chance_of(labels: np.ndarray) -> float:
  """Returns the accuracy of naming the most frequent class, in percent."""
  return 100 * float(np.bincount(labels).max()) / len(labels)


def interval(accuracy: float, count: int) -> tuple[float, float]:
  """Returns Wilson's interval of an accuracy over `count` pictures, in percent."""
  hits = round(accuracy * count / 100)
  found = stats.binomtest(hits, count).proportion_ci(_CONFIDENCE, method="wilson")
  return 100 * found.low, 100 * found.high


def keep(store: Private, found: Verdict, trials: Sequence[Trial], pictures: int) -> None:
  """Stores a verdict, for later commands and the page, in place of the one before."""
  content = dataclasses.asdict(found) | {"pictures": pictures}
  files.write_json(
    store.verdict, content | {"trials": [dataclasses.asdict(trial) for trial in trials]}
  )
