"""Audits a protected folder: what each known attack on the protection gives back."""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable
from typing import Any

from miue_jax import __version__
from miue_jax.experiment.results import Rows
from miue_jax.machine import files
from miue_jax.owner import page, private, proof, published
from miue_jax.owner.published import Pairs
from miue_jax.report import verdict
from miue_jax.settings.errors import UserError

_WHOLE = "the whole picture"


@dataclasses.dataclass(frozen=True)
class Attack:
  """Something that a scraper may do about a protection.

  Attributes:
    said: What it is, in words.
    pipeline: How files are loaded.
    defence: What is done to loaded pictures, an entry of `miue_jax.defences`.
    advice: What an owner can do against it.
  """

  said: str
  pipeline: str = _WHOLE
  defence: str = "none"
  advice: str = "protect with a higher --strength"


_SMALLER = "publish larger pictures: JPEG removes less of a coarse perturbation"
_COLOUR = "protect with a higher --strength, or publish pictures without colour"

# The cheapest first, so that a bounded time tells most.
ATTACKS = (
  Attack(private.UNTOUCHED),
  Attack("JPEG at quality 90", f"{_WHOLE} after JPEG 90", advice=_SMALLER),
  Attack("JPEG at quality 75", f"{_WHOLE} after JPEG 75", advice=_SMALLER),
  Attack("JPEG at quality 50", f"{_WHOLE} after JPEG 50", advice=_SMALLER),
  Attack("cropping the centre", "the centre"),
  Attack("cropping at random", "a random part"),
  Attack("dropping colour", defence="grayscale", advice=_COLOUR),
  Attack("blurring", defence="blur"),
  Attack("adding noise", defence="noise"),
  Attack("cutting out squares", defence="cutout"),
  Attack("mixing pictures", defence="mixup"),
  Attack("pasting pictures into each other", defence="cutmix"),
  Attack("strong random changes", defence="trivialaugment"),
  Attack("strong changes chosen against protections", defence="ueraser"),
  Attack("removing what is linearly separable", defence="projection"),
  Attack("fewer bits of colour", defence="bits4"),
  Attack("adversarial training", defence="at4"),
)


def audit(
  out: pathlib.Path,
  key: pathlib.Path | None,
  passphrase: str | None,
  photos: pathlib.Path | None,
  seconds: float | None,
  threshold: float,
  say: Callable[[str], None],
) -> bool:
  """Tries all attacks for which there is time; prints and records what each gives back.

  Args:
    out: Folder of published pictures.
    key: The key; None is next to `out`.
    passphrase: Passphrase of the key.
    photos: Folder of the originals; None is where they were when they were protected.
    seconds: Time that the attacks may take, the first one always; None sets no limit.
    threshold: Percent of what can be learned from the originals.
    say: Prints a line.

  Returns:
    Whether no attack gave back more than the threshold.

  Raises:
    UserError: There is no key, or too few originals are there.
  """
  began = time.monotonic()
  with published.opened(out, key, passphrase, photos, say) as pairs:
    rows = Rows(pairs.store.audits, private.Audit)
    loaded, clean, longest = {}, None, 0.0
    for number, attack in enumerate(ATTACKS):
      left = None if seconds is None else seconds - (time.monotonic() - began)
      if left is not None and number and left < longest:
        names = ", ".join(later.said for later in ATTACKS[number:])
        say(f"The time is over; not tried: {names}.")
        break
      started = time.monotonic()
      originals, changed = loaded.pop(attack.pipeline, None) or pairs.sets(attack.pipeline)
      if attack.pipeline == _WHOLE:
        loaded[_WHOLE] = originals, changed
      clean = clean or _accuracy(pairs, originals, originals, "none")
      reached = _accuracy(pairs, changed, originals, attack.defence)
      row = _row(pairs, attack, clean, reached)
      rows.append(row)
      say(_line(row, attack))
      longest = max(longest, time.monotonic() - started)
    found = private.verdict_of(pairs.store)
    if found and files.exists(pairs.store.noted):
      page.write(pairs.store, found, page.Folders(pairs.photos, pairs.out, pairs.entries))
    private.repeat(out, say)
    return _concluded(private.by_audit(rows.read()), threshold, say)


def audit_all(
  runs: pathlib.Path,
  passphrase: str | None,
  seconds: float | None,
  threshold: float,
  say: Callable[[str], None],
) -> bool:
  """Audits every protected folder below a folder again, and goes on after those that it cannot.

  Args:
    runs: Folder that holds published folders, each with its private folder and key next to it.
    passphrase: Passphrase of all keys.
    seconds: Time that all audits may take together; None sets no limit.
    threshold: As for `audit`.
    say: Prints a line.

  Returns:
    Whether no attack on any folder gave back more than the threshold.

  Raises:
    UserError: There is no protected folder, or none fell and some could not be audited.
  """
  outs = private.published_in(runs, deep=True)
  if not outs:
    raise UserError(f"There is no protected folder in {runs}: name a folder that holds one.")
  ends = None if seconds is None else time.monotonic() + seconds
  fallen, failed = [], []
  for number, out in enumerate(outs):
    left = None if ends is None else (ends - time.monotonic()) / (len(outs) - number)
    say(f"{out} ({number + 1} of {len(outs)}):")
    try:
      if not audit(out, None, passphrase, None, left, threshold, say):
        fallen.append(str(out))
    except UserError as error:
      failed.append(str(out))
      say(f"Not audited: {error}")
  say(f"{len(outs) - len(failed)} of {len(outs)} protected folders were audited.")
  missed = f"{len(failed)} folders were not audited, for the reasons above: {', '.join(failed)}."
  if failed and not fallen:
    raise UserError(missed)
  if failed:
    say(missed)
  if fallen:
    say(f"Attacks give back more than {threshold:g} % in {', '.join(fallen)}.")
  return not fallen


def _concluded(audits: list[list[dict[str, Any]]], threshold: float, say: Callable) -> bool:
  """Prints the strongest attack of the latest audit; returns whether it is below the threshold."""
  *earlier, row = (max(audit, key=lambda row: row["share"]) for audit in audits)
  said = (
    f"The strongest attack, {row['attack']}, gives back {100 * row['share']:.0f} % of what the "
    f"originals teach: {verdict.judge(row['share'])}."
  )
  if earlier:
    said += f" On {earlier[-1]['date']} it was {100 * earlier[-1]['share']:.0f} %."
  say(said)
  if 100 * row["share"] <= threshold:
    return True
  (advice,) = (attack.advice for attack in ATTACKS if attack.said == row["attack"])
  say(f"That is more than {threshold:g} %. What to do next: {advice}.")
  return False


def _accuracy(pairs: Pairs, learned: Any, originals: Any, defence: str) -> float:
  """Returns the accuracy in percent of a victim, at its last or its best epoch."""
  tested, labels = pairs.held_out, pairs.labels
  (row,) = proof.rows_of(
    pairs.choice,
    max(pairs.choice.victims, key=lambda victim: victim.epochs),
    {"pictures": learned[~tested]},
    labels[~tested],
    (originals[tested], labels[tested]),
    defences=(defence,),
  )
  return max(row["test_accuracy"], row["peak_test_accuracy"])


def _row(pairs: Pairs, attack: Attack, clean: float, reached: float) -> dict[str, Any]:
  count = int(pairs.held_out.sum())
  chance = proof.chance_of(pairs.labels[pairs.held_out])
  low, high = proof.interval(reached, count)
  learned = max(clean - chance, verdict.LEARNS_FROM)
  return {
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    "version": __version__,
    "attack": attack.said,
    "published": reached,
    "interval": [low, high],
    "originals": clean,
    "chance": chance,
    "share": max(0.0, (reached - chance) / learned),
    "pictures": count,
  }


def _line(row: dict[str, Any], attack: Attack) -> str:
  judgement = verdict.judge(row["share"])
  low, high = row["interval"]
  line = (
    f"{attack.said[0].upper()}{attack.said[1:]}: {row['published']:.0f} % ({low:.0f} to "
    f"{high:.0f} %; originals {row['originals']:.0f} %, guessing {row['chance']:.0f} %), "
    f"{judgement}."
  )
  return line if judgement == verdict.PROTECTED else f"{line} Advice: {attack.advice}."
