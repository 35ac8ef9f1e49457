"""Audits a protected folder: what each known attack on the protection gives back."""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable
from typing import Any

from miue_jax import __version__
from miue_jax.experiment.results import Rows
from miue_jax.owner import private, proof, published
from miue_jax.owner.published import Pairs
from miue_jax.report import verdict

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
  Attack("nothing"),
  Attack("JPEG at quality 90", f"{_WHOLE} after JPEG 90", advice=_SMALLER),
  Attack("JPEG at quality 75", f"{_WHOLE} after JPEG 75", advice=_SMALLER),
  Attack("JPEG at quality 50", f"{_WHOLE} after JPEG 50", advice=_SMALLER),
  Attack("cropping the centre", "the centre"),
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
  say: Callable[[str], None],
) -> float:
  """Tries all attacks for which there is time; prints and records what each gives back.

  Returns:
    The largest share of what can be learned from the originals that an attack gave back.
  """
  began = time.monotonic()
  with published.opened(out, key, passphrase, photos, say) as pairs:
    rows = Rows(pairs.store.audits, private.Audit)
    loaded, clean, shares, longest = {}, None, [], 0.0
    for number, attack in enumerate(ATTACKS):
      left = None if seconds is None else seconds - (time.monotonic() - began)
      if left is not None and number and left < longest:
        names = ", ".join(later.said for later in ATTACKS[number:])
        say(f"The time is over; not tried: {names}.")
        break
      started = time.monotonic()
      originals, files = loaded.pop(attack.pipeline, None) or pairs.sets(attack.pipeline)
      if attack.pipeline == _WHOLE:
        loaded[_WHOLE] = originals, files
      clean = clean or _accuracy(pairs, originals, originals, "none")
      reached = _accuracy(pairs, files, originals, attack.defence)
      row = _row(pairs, attack, clean, reached)
      rows.append(row)
      shares.append(row["share"])
      say(_line(row, attack))
      longest = max(longest, time.monotonic() - started)
    return max(shares)


def _accuracy(pairs: Pairs, learned: Any, originals: Any, defence: str) -> float:
  """Returns the accuracy in percent of a victim, at its last or its best epoch."""
  tested, labels = pairs.held_out, pairs.labels
  (row,) = proof.rows_of(
    pairs.choice,
    pairs.choice.victims[1],
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
