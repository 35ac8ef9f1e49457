"""Were the images protected? One sentence, one judgement, and the rule behind it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from miue_jax.report.aggregate import CONTROLS, Condition, Row, Statistic

PROTECTED = "protected"
PARTLY = "partly protected"
NOT_PROTECTED = "NOT protected"
UNKNOWN = "nothing can be concluded"

PROTECTED_BELOW = 0.25  # share of what the clean victim learns above chance
NOT_PROTECTED_ABOVE = 0.75
LEARNS_FROM = 5.0  # points above chance that the clean victim needs for a comparison
RANDOM_MAY_COST = 3.0  # points
IMBALANCE = 1.0  # points between accuracy and balanced accuracy

RULE = (
  "Share learned = (protected - chance) / (clean - chance), from mean clean test accuracies after "
  f"the last epoch; at most {100 * PROTECTED_BELOW:.0f} %: protected, above "
  f"{100 * NOT_PROTECTED_ABOVE:.0f} %: NOT protected, between them: partly protected. "
  "Chance is 100 % / number of classes. Balanced accuracy takes the place of accuracy where the "
  f"two differ by more than {IMBALANCE:g} point, because always answering the largest class then "
  "beats chance. Of several victims and defences, the one that learns most decides."
)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What the results say.

  Attributes:
    judgement: one of the four constants above.
    sentence: the numbers behind it.
    notes: what a reader must know before believing it.
  """

  judgement: str
  sentence: str
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Comparison:
  """A protected condition beside the clean one of the same setting."""

  condition: Condition
  clean: Condition
  metric: str
  chance: float

  def share(self, metric: str | None = None) -> float:
    protected = self.condition.metrics[metric or self.metric].mean
    clean = self.clean.metrics[self.metric].mean
    return (protected - self.chance) / (clean - self.chance)

  @property
  def judgement(self) -> str:
    return judge(self.share())


def judge(share: float) -> str:
  """The stated rule: `share` is the part of the learnable that was learned all the same."""
  if share <= PROTECTED_BELOW:
    return PROTECTED
  return NOT_PROTECTED if share > NOT_PROTECTED_ABOVE else PARTLY


def number_of_classes(
  rows: list[Row], config: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> int | None:
  """From the rows, the manifest or the configured classes, whichever says so first."""
  for source in (*rows[:1], manifest or {}):
    if source.get("num_classes"):
      return int(source["num_classes"])
    if source.get("class_names"):
      return len(source["class_names"])
  return len((config.get("data") or {}).get("classes") or ()) or None


def protection_method(
  conditions: list[Condition], config: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> str | None:
  """The method on trial: the manifest's or the config's if it was evaluated, else the first."""
  present = [c.method for c in conditions if c.method not in CONTROLS]
  named = ((manifest or {}).get("method"), (config.get("method") or {}).get("name"))
  return next((name for name in named if name in present), present[0] if present else None)


def spread(value: Statistic, digits: int = 1) -> str:
  """`12.3 % ± 1.2`, or `12.3 %` for a single seed."""
  std = "" if value.std is None else f" ± {value.std:.{digits}f}"
  return f"{value.mean:.{digits}f} %{std}"


def verdict(conditions: list[Condition], method: str | None, classes: int | None) -> Verdict:
  """Judges `method` in its weakest setting against the clean victims.

  Args:
    conditions: from `aggregate`.
    method: the protection on trial; None when no row belongs to one.
    classes: number of classes; None sets chance to 0 %, which only makes the rule stricter.
  """
  chance = 100 / classes if classes else 0.0
  trials = [
    c
    for c in conditions
    if c.method == method and method and c.metrics["test_accuracy"] is not None
  ]
  if not trials:
    return Verdict(
      UNKNOWN,
      "No victim was trained on protected images, so nothing can be concluded about protection.",
    )
  clean = {c.setting: c for c in conditions if c.method == "clean" and c.metrics["test_accuracy"]}
  compared = [
    _Comparison(c, clean[c.setting], _metric(c, clean[c.setting]), chance)
    for c in trials
    if c.setting in clean
  ]
  if not compared:
    reached = trials[0].metrics["test_accuracy"]
    return Verdict(
      UNKNOWN,
      f"{_who(trials[0])} reaches {spread(reached)} on clean test images, but no victim was "
      "trained on the originals, so nothing can be concluded.",
      ("Evaluate the clean condition as well: it is what the fall is measured against.",),
    )
  sound = [c for c in compared if c.clean.metrics[c.metric].mean - chance >= LEARNS_FROM]
  if not sound:
    reached = compared[0].clean.metrics[compared[0].metric]
    return Verdict(
      UNKNOWN,
      f"{compared[0].clean.victim} reaches {spread(reached)} even when trained on the originals, "
      f"which is within {LEARNS_FROM:g} points of chance ({chance:.1f} %), so nothing can be "
      "concluded.",
      ("Train the victim longer or choose a stronger one.",),
    )
  weakest = max(sound, key=_Comparison.share)
  controls = {c.method: c for c in conditions if c.setting == weakest.clean.setting}
  notes = _notes(weakest, sound, len(trials), controls, classes)
  return Verdict(weakest.judgement, _sentence(weakest, controls.get("random")), notes)


def _metric(condition: Condition, clean: Condition) -> str:
  for side in (condition, clean):
    accuracy, balanced = side.metrics["test_accuracy"], side.metrics["balanced_accuracy"]
    if balanced is None:
      return "test_accuracy"
    if abs(accuracy.mean - balanced.mean) > IMBALANCE:
      return "balanced_accuracy"
  return "test_accuracy"


def _who(condition: Condition) -> str:
  defence = "" if condition.defence == "none" else f" behind the {condition.defence} defence"
  return (
    f"{condition.victim}{defence}, trained on {condition.dataset} protected by {condition.method},"
  )


def _sentence(trial: _Comparison, random: Condition | None) -> str:
  protected, clean = trial.condition.metrics[trial.metric], trial.clean.metrics[trial.metric]
  kind = " balanced accuracy" if trial.metric == "balanced_accuracy" else ""
  seeds = f"{protected.n} seed" + ("s" if protected.n != 1 else "")
  if clean.n != protected.n:
    seeds += f", {clean.n} on the originals"
  noise = random.metrics[trial.metric] if random else None
  tail = f"; random noise of the same budget leaves {spread(noise)}" if noise else ""
  return (
    f"{_who(trial.condition)} reaches {spread(protected)}{kind} on clean test images, against "
    f"{spread(clean)} when trained on the originals ({seeds}){tail}."
  )


def _notes(
  weakest: _Comparison,
  sound: list[_Comparison],
  trials: int,
  controls: dict[str, Condition],
  classes: int | None,
) -> tuple[str, ...]:
  notes = []
  clean = weakest.clean.metrics[weakest.metric]
  peak = weakest.condition.metrics["peak_test_accuracy"]
  if weakest.metric == "test_accuracy" and peak:
    at_peak = judge(weakest.share("peak_test_accuracy"))
    if at_peak != weakest.judgement:
      notes.append(
        f"Judged by its best epoch instead of its last ({spread(peak)}), it is {at_peak}: somebody "
        "with clean images to validate on would stop there."
      )
  noise = controls["random"].metrics[weakest.metric] if "random" in controls else None
  if noise and clean.mean - noise.mean > RANDOM_MAY_COST:
    notes.append(
      f"Random noise of the same budget alone costs {clean.mean - noise.mean:.1f} points, so not "
      "all of the fall is the method's doing."
    )
  restored = controls["restored"].metrics[weakest.metric] if "restored" in controls else None
  if restored:
    notes.append(f"Trained on images restored with the key, the victim reaches {spread(restored)}.")
  if weakest.condition.metrics[weakest.metric].n == 1:
    notes.append("One seed only: how much the result varies is unknown.")
  if weakest.condition.epochs != weakest.clean.epochs:
    notes.append("The two sides were trained for different numbers of epochs: compare with care.")
  if len(sound) > 1:
    counts = [(sum(c.judgement == j for c in sound), j) for j in (PROTECTED, PARTLY, NOT_PROTECTED)]
    listed = ", ".join(f"{count} {name}" for count, name in counts if count)
    notes.append(
      f"This is the weakest of {len(sound)} combinations of victim and defence: {listed}."
    )
  if trials > len(sound):
    notes.append(
      f"{trials - len(sound)} combination(s) without a usable clean side were not judged."
    )
  if classes is None:
    notes.append("The number of classes is not recorded, so chance is taken as 0 %.")
  return tuple(notes)
