"""Judges whether the images were protected: one judgement, one sentence and notes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from miue_jax.report.aggregate import Condition, Statistic
from miue_jax.report.tables import spread

PROTECTED = "protected"
PARTLY = "partly protected"
NOT_PROTECTED = "NOT protected"
UNKNOWN = "nothing can be concluded"

PROTECTED_BELOW = 0.25  # share of what the clean victim learns above chance
NOT_PROTECTED_ABOVE = 0.75
LEARNS_FROM = 5.0  # points above chance that the clean victim needs for a comparison
RANDOM_MAY_COST = 3.0  # points
IMBALANCE = 1.0  # points between accuracy and balanced accuracy

_percent = functools.partial(spread, unit=" %")


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The conclusion of an experiment.

  Attributes:
    judgement: One of the four constants above.
    sentence: Numbers behind the judgement.
    notes: What a reader must know before believing it.
  """

  judgement: str
  sentence: str
  notes: tuple[str, ...] = ()

  @property
  def headline(self) -> str:
    """Returns the judgement with a capital, as at the start of a text."""
    return self.judgement[0].upper() + self.judgement[1:]


@dataclasses.dataclass(frozen=True)
class _Trial:
  """A protected condition among the conditions of the same setting.

  Attributes:
    setting: Conditions by method, "clean" among them.
    method: The protection.
    chance: Accuracy of guessing, percent.
  """

  setting: Mapping[str, Condition]
  method: str
  chance: float

  @property
  def metric(self) -> str:
    """Returns the name of the accuracy that is compared."""
    gaps = [
      abs(accuracy.mean - balanced.mean)
      for side in (self.setting[self.method], self.setting["clean"])
      if (accuracy := side.accuracy) and (balanced := side.metrics["balanced_accuracy"])
    ]
    imbalanced = len(gaps) == 2 and max(gaps) > IMBALANCE
    return "balanced_accuracy" if imbalanced else "test_accuracy"

  def value(self, method: str) -> Statistic | None:
    """Returns the compared accuracy of a method."""
    return self.setting[method].metrics[self.metric] if method in self.setting else None

  @property
  def sides(self) -> tuple[Statistic, Statistic]:
    """Returns the compared accuracies of the protection and of clean images."""
    protected, clean = self.value(self.method), self.value("clean")
    assert protected is not None, "only conditions with an accuracy are compared"
    assert clean is not None, "only conditions with an accuracy are compared"
    return protected, clean

  def share(self, reached: float | None = None) -> float:
    """Returns the share learned: accuracy above chance, relative to that of the clean victim."""
    protected, clean = self.sides
    reached = protected.mean if reached is None else reached
    return (reached - self.chance) / (clean.mean - self.chance)


def judge(share: float) -> str:
  """Returns the judgement for a share learned."""
  if share <= PROTECTED_BELOW:
    return PROTECTED
  return NOT_PROTECTED if share > NOT_PROTECTED_ABOVE else PARTLY


def verdict(conditions: Sequence[Condition], method: str | None, classes: int | None) -> Verdict:
  """Judges a method in its weakest setting against the victims that learned from clean images.

  Args:
    conditions: Results over seeds.
    method: The protection to judge; None when no row belongs to one.
    classes: Number of classes; None sets chance to 0 %, which only makes the rule stricter.
  """
  chance = 100 / classes if classes else 0.0
  settings: dict[tuple, dict[str, Condition]] = {}
  for condition in conditions:
    if condition.accuracy:
      settings.setdefault(condition.setting, {})[condition.method] = condition
  trained = [setting for setting in settings.values() if method in setting]
  if method is None or not trained:
    return Verdict(UNKNOWN, "No network was trained on protected images.")
  trials = [_Trial(setting, method, chance) for setting in trained if "clean" in setting]
  sound = [trial for trial in trials if trial.sides[1].mean - chance >= LEARNS_FROM]
  if not trials:
    first = trained[0][method]
    return Verdict(
      UNKNOWN,
      f"{_subject(first)} classifies {_percent(first.accuracy)} of the test images correctly. No "
      "network was trained on the original images.",
      ("Evaluate the clean condition as well: the protection is measured against it.",),
    )
  if not sound:
    return Verdict(
      UNKNOWN,
      f"{trials[0].setting['clean'].victim} classifies only {_percent(trials[0].sides[1])} "
      "of the test images correctly when it is trained on the original images. This is within "
      f"{LEARNS_FROM:g} points of guessing ({chance:.1f} %).",
      ("Train the network longer or choose a stronger one.",),
    )
  weakest = max(sound, key=_Trial.share)
  notes = [*_trial_notes(weakest), *_coverage_notes(sound, len(trained), classes)]
  return Verdict(judge(weakest.share()), _sentence(weakest), tuple(notes))


def _subject(condition: Condition) -> str:
  defence = "" if condition.defence == "none" else f" with the defence {condition.defence}"
  return (
    f"{condition.victim}{defence}, trained on {condition.dataset} protected by {condition.method},"
  )


def _sentence(trial: _Trial) -> str:
  (protected, clean), noise = trial.sides, trial.value("random")
  kind = " (balanced accuracy)" if trial.metric == "balanced_accuracy" else ""
  runs = f"{protected.n} training run" + ("s" if protected.n != 1 else "")
  if clean.n != protected.n:
    runs += f", {clean.n} on the original images"
  tail = f" Random noise of the same budget leaves {_percent(noise)}." if noise else ""
  return (
    f"{_subject(trial.setting[trial.method])} classifies {_percent(protected)} of the test images "
    f"correctly{kind}. Trained on the original images, it classifies {_percent(clean)} ({runs})."
    f"{tail}"
  )


def _trial_notes(trial: _Trial) -> list[str]:
  """Returns notes about the setting that decides."""
  protected, clean = trial.sides
  noise, restored = map(trial.value, ("random", "restored"))
  peak = trial.setting[trial.method].metrics["peak_test_accuracy"]
  at_peak = judge(trial.share(peak.mean)) if peak else None
  notes = []
  if trial.metric == "test_accuracy" and at_peak not in (None, judge(trial.share())):
    notes.append(
      f"Judged by its best epoch instead of its last ({_percent(peak)}), the result is: {at_peak}. "
      "A trainer with clean validation images would stop at that epoch."
    )
  if noise and clean.mean - noise.mean > RANDOM_MAY_COST:
    notes.append(
      f"Random noise of the same budget alone costs {clean.mean - noise.mean:.1f} points, so the "
      "method explains only a part of the loss of accuracy."
    )
  if restored:
    reached = _percent(restored)
    notes.append(f"Trained on images restored with the key, the network reaches {reached}.")
  if protected.n == 1:
    notes.append("There is only one training run, so it is unknown how much the result varies.")
  if trial.setting[trial.method].epochs != trial.setting["clean"].epochs:
    notes.append("The networks were trained for different numbers of epochs: compare with care.")
  return notes


def _coverage_notes(sound: Sequence[_Trial], trained: int, classes: int | None) -> list[str]:
  """Returns notes about how many pairs of network and defence were judged, and how many not."""
  notes = []
  if len(sound) > 1:
    found = [judge(trial.share()) for trial in sound]
    counts = [(found.count(name), name) for name in (PROTECTED, PARTLY, NOT_PROTECTED)]
    listed = ", ".join(f"{count} {name}" for count, name in counts if count)
    notes.append(f"This is the weakest of {len(sound)} pairs of network and defence: {listed}.")
  if trained > len(sound):
    notes.append(
      f"{trained - len(sound)} pair(s) of network and defence were not judged, because the network "
      "that was trained on the original images is missing or learned nothing."
    )
  if classes is None:
    notes.append("The number of classes is not recorded, so chance is taken as 0 %.")
  return notes
