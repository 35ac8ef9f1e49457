"""Judges whether the images were protected: one judgement, one sentence and the rule behind it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report.aggregate import CONTROLS, Condition, Row
from miue_jax.report.tables import spread

PROTECTED = "protected"
PARTLY = "partly protected"
NOT_PROTECTED = "NOT protected"
UNKNOWN = "nothing can be concluded"
_TONES = {PROTECTED: "good", PARTLY: "fair", NOT_PROTECTED: "bad", UNKNOWN: "open"}

PROTECTED_BELOW = 0.25  # share of what the clean victim learns above chance
NOT_PROTECTED_ABOVE = 0.75
LEARNS_FROM = 5.0  # points above chance that the clean victim needs for a comparison
RANDOM_MAY_COST = 3.0  # points
IMBALANCE = 1.0  # points between accuracy and balanced accuracy

_percent = functools.partial(spread, unit=" %")


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Conclusion of an experiment.

  Attributes:
    judgement: one of the four constants above.
    sentence: numbers behind the judgement.
    notes: what a reader must know before believing it.
  """

  judgement: str
  sentence: str
  notes: tuple[str, ...] = ()

  @property
  def tone(self) -> str:
    """Class of the judgement in the page's style."""
    return _TONES[self.judgement]


@dataclasses.dataclass(frozen=True)
class _Trial:
  """A protected condition and the clean condition of the same setting."""

  protected: Condition
  clean: Condition
  chance: float

  @property
  def metric(self) -> str:
    """Name of the accuracy that is compared."""
    sides = [c.metrics for c in (self.protected, self.clean)]
    if not all(side["balanced_accuracy"] for side in sides):
      return "test_accuracy"
    gaps = (side["test_accuracy"].mean - side["balanced_accuracy"].mean for side in sides)
    return "balanced_accuracy" if max(map(abs, gaps)) > IMBALANCE else "test_accuracy"

  def share(self, metric: str | None = None) -> float:
    """Returns the part of what the clean victim learned above chance."""
    protected = self.protected.metrics[metric or self.metric].mean - self.chance
    return protected / (self.clean.metrics[self.metric].mean - self.chance)


def judge(share: float) -> str:
  """Returns the judgement for a share learned."""
  if share <= PROTECTED_BELOW:
    return PROTECTED
  return NOT_PROTECTED if share > NOT_PROTECTED_ABOVE else PARTLY


def number_of_classes(
  rows: Sequence[Row], config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> int | None:
  """Finds the number of classes in the rows, the manifest or the config, in this order."""
  for source in (*rows[:1], manifest):
    if source.get("num_classes"):
      return int(source["num_classes"])
    if source.get("class_names"):
      return len(source["class_names"])
  return len((config.get("data") or {}).get("classes") or ()) or None


def protection_method(
  conditions: Sequence[Condition], config: Mapping[str, Any], manifest: Mapping[str, Any]
) -> str | None:
  """Returns the method to judge: that of the manifest or the config, or the first with rows."""
  present = [c.method for c in conditions if c.method not in CONTROLS]
  named = (manifest.get("method"), (config.get("method") or {}).get("name"))
  return next((name for name in named if name in present), present[0] if present else None)


def verdict(conditions: Sequence[Condition], method: str | None, classes: int | None) -> Verdict:
  """Judges a method in its weakest setting against the victims that learned from clean images.

  Args:
    conditions: results over seeds.
    method: the protection to judge; None when no row belongs to one.
    classes: number of classes; None sets chance to 0 %, which only makes the rule stricter.
  """
  chance = 100 / classes if classes else 0.0
  trained = [c for c in conditions if method and c.method == method and c.accuracy]
  if not trained:
    return Verdict(
      UNKNOWN,
      "No network was trained on protected images, so nothing can be concluded about protection.",
    )
  clean = {c.setting: c for c in conditions if c.method == "clean" and c.accuracy}
  trials = [_Trial(c, clean[c.setting], chance) for c in trained if c.setting in clean]
  if not trials:
    return Verdict(
      UNKNOWN,
      f"{_subject(trained[0])} classifies {_percent(trained[0].accuracy)} of the test images "
      "correctly. No network was trained on the original images, so nothing can be concluded.",
      ("Evaluate the clean condition as well: the protection is measured against it.",),
    )
  sound = [t for t in trials if t.clean.metrics[t.metric].mean - chance >= LEARNS_FROM]
  if not sound:
    first = trials[0]
    return Verdict(
      UNKNOWN,
      f"{first.clean.victim} classifies only {_percent(first.clean.metrics[first.metric])} of the "
      "test images correctly when it is trained on the original images. This is within "
      f"{LEARNS_FROM:g} points of guessing ({chance:.1f} %), so nothing can be concluded.",
      ("Train the network longer or choose a stronger one.",),
    )
  weakest = max(sound, key=_Trial.share)
  setting = {c.method: c for c in conditions if c.setting == weakest.clean.setting}
  notes = [*_trial_notes(weakest, setting), *_coverage_notes(sound, len(trained), classes)]
  return Verdict(judge(weakest.share()), _sentence(weakest, setting), tuple(notes))


def _subject(condition: Condition) -> str:
  defence = "" if condition.defence == "none" else f" with the defence {condition.defence}"
  return (
    f"{condition.victim}{defence}, trained on {condition.dataset} protected by {condition.method},"
  )


def _sentence(trial: _Trial, setting: Mapping[str, Condition]) -> str:
  protected, clean = trial.protected.metrics[trial.metric], trial.clean.metrics[trial.metric]
  kind = " (balanced accuracy)" if trial.metric == "balanced_accuracy" else ""
  runs = f"{protected.n} training run" + ("s" if protected.n != 1 else "")
  if clean.n != protected.n:
    runs += f", {clean.n} on the original images"
  noise = setting["random"].metrics[trial.metric] if "random" in setting else None
  tail = f" Random noise of the same budget leaves {_percent(noise)}." if noise else ""
  return (
    f"{_subject(trial.protected)} classifies {_percent(protected)} of the test images correctly"
    f"{kind}. Trained on the original images, it classifies {_percent(clean)} ({runs}).{tail}"
  )


def _trial_notes(trial: _Trial, setting: Mapping[str, Condition]) -> list[str]:
  """Returns notes about the setting that decides."""
  notes, metric, protected = [], trial.metric, trial.protected
  clean, peak = trial.clean.metrics[metric], protected.metrics["peak_test_accuracy"]
  noise, restored = (
    setting[name].metrics[metric] if name in setting else None for name in ("random", "restored")
  )
  at_peak = judge(trial.share("peak_test_accuracy")) if peak else None
  if metric == "test_accuracy" and at_peak not in (None, judge(trial.share())):
    notes.append(
      f"Judged by its best epoch instead of its last ({_percent(peak)}), the result is: {at_peak}. "
      "Somebody who has clean images to validate on would stop at that epoch."
    )
  if noise and clean.mean - noise.mean > RANDOM_MAY_COST:
    notes.append(
      f"Random noise of the same budget alone costs {clean.mean - noise.mean:.1f} points, so the "
      "method explains only a part of the loss of accuracy."
    )
  if restored:
    reached = _percent(restored)
    notes.append(f"Trained on images restored with the key, the network reaches {reached}.")
  if protected.metrics[metric].n == 1:
    notes.append("There is only one training run, so it is unknown how much the result varies.")
  if protected.epochs != trial.clean.epochs:
    notes.append("The networks were trained for different numbers of epochs: compare with care.")
  return notes


def _coverage_notes(sound: Sequence[_Trial], trained: int, classes: int | None) -> list[str]:
  """Returns notes about how many settings were judged, and against what."""
  notes = []
  if len(sound) > 1:
    found = [judge(trial.share()) for trial in sound]
    listed = ", ".join(f"{found.count(j)} {j}" for j in _TONES if j in found)
    notes.append(f"This is the weakest of {len(sound)} pairs of network and defence: {listed}.")
  if trained > len(sound):
    notes.append(
      f"{trained - len(sound)} pair(s) of network and defence were not judged, because the network "
      "that was trained on the original images is missing or learned nothing."
    )
  if classes is None:
    notes.append("The number of classes is not recorded, so chance is taken as 0 %.")
  return notes
