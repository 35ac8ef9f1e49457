"""Audits a protected folder: measures what each known attack on the protection gives back."""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from miue_jax import __version__, defences
from miue_jax.data.sampling import Draw, stratified
from miue_jax.defences import purification
from miue_jax.experiment.results import Rows
from miue_jax.machine import files
from miue_jax.machine.terminal import counted, say
from miue_jax.owner import estimate, page, patterns, private, proof, published
from miue_jax.owner.choose import Choice, Victim
from miue_jax.owner.pipelines import WHOLE
from miue_jax.owner.published import Pairs
from miue_jax.report import verdict
from miue_jax.settings.errors import UserError


def _stronger(choice: Choice) -> str:
  return f"protect with {choice.stronger}" if choice.stronger else "add pictures"


def _compressed(choice: Choice) -> str:
  return "protect with --recompressed" if choice.compressible else _stronger(choice)


def _colourless(choice: Choice) -> str:
  more = "" if choice.patterned else ", or publish pictures without colour"
  return f"{_stronger(choice)}{more}"


def _fixed(advice: str) -> Callable[[Choice], str]:
  return lambda choice: advice


@dataclasses.dataclass(frozen=True)
class Attack:
  """Describes something that a scraper may do against a protection.

  Attributes:
    said: What it is, in words.
    pipeline: How files are loaded.
    defence: What is done to loaded pictures, an entry of `miue_jax.defences`.
    advice: Returns what an owner can do against it, given the choice of the protection.
    cost: How long the training takes, as a multiple of training without an attack; networks that
      purify take additional time.
    pairs: Whether a network learns from half of the held-out pictures, published and original, to
      undo the protection of the others.
    pretrained: Whether the victim starts from weights, which the owner has to give.
    repeats: Whether it attacks repeating patterns, whose period completes the name in `defence`.
  """

  said: str
  pipeline: str = WHOLE
  defence: str = "none"
  advice: Callable[[Choice], str] = _stronger
  cost: float = 1.0
  pairs: bool = False
  pretrained: bool = False
  repeats: bool = False


_PRIVATE = _fixed("keep unprotected pictures of the same kind private: such networks need some")
_SMALLER = _fixed("publish larger pictures: resizing removes less of a coarse perturbation")

# The cheapest attacks come first, so that as many as possible fit into a limited time.
ATTACKS = (
  Attack(private.UNTOUCHED),
  Attack("JPEG at quality 90", f"{WHOLE} after JPEG 90", advice=_compressed),
  Attack("JPEG at quality 75", f"{WHOLE} after JPEG 75", advice=_compressed),
  Attack("JPEG at quality 50", f"{WHOLE} after JPEG 50", advice=_compressed),
  Attack("halving the size", f"{WHOLE} at half its size", advice=_SMALLER),
  Attack("cropping the centre", "the centre"),
  Attack("cropping at random", "a random part"),
  Attack("dropping colour", defence="grayscale", advice=_colourless),
  Attack("blurring", defence="blur"),
  Attack("adding noise", defence="noise"),
  Attack("cutting out squares", defence="cutout"),
  Attack("mixing pictures", defence="mixup"),
  Attack("pasting pictures into each other", defence="cutmix"),
  Attack("strong random changes", defence="trivialaugment"),
  Attack("strong changes chosen against protections", defence="ueraser", cost=2.5),
  Attack("removing what is linearly separable", defence="projection"),
  Attack("fewer bits of colour", defence="bits4"),
  Attack("subtracting what repeats", defence="tiles", repeats=True),
  Attack(
    "starting from pretrained weights",
    pretrained=True,
    advice=_fixed("publish fewer or smaller pictures: networks know such pictures from elsewhere"),
  ),
  Attack("adversarial training", defence="at4", cost=6.0),
  Attack("rebuilding by an autoencoder", defence="vae", advice=_PRIVATE),
  Attack(
    "undoing by a network that has seen pairs",
    pairs=True,
    advice=_fixed("keep the originals of published pictures private"),
  ),
  Attack("rebuilding by a diffusion model", defence="avatar60", advice=_PRIVATE),
)


def audit(
  out: pathlib.Path,
  key: pathlib.Path | None,
  passphrase: str | None,
  photos: pathlib.Path | None,
  seconds: float | None,
  threshold: float,
  weights: pathlib.Path | None,
) -> bool:
  """Tries all attacks for which there is time; prints and records what each gives back.

  Args:
    out: Folder of published pictures.
    key: Path of the key; None is that of the key next to `out`.
    passphrase: Passphrase of the key.
    photos: Folder of the originals; None is the folder from which they were protected.
    seconds: Seconds that the attacks may take; the first one always runs. None sets no limit.
    threshold: Percent of what can be learned from the originals.
    weights: File of weights that `--mode=pretrain` wrote, for the attack that starts from them; or
      None.

  Returns:
    Whether no attack gave back more than the threshold.

  Raises:
    UserError: There is no key, too few originals are there, networks learn nothing from them, no
      victim has the network of the weights, or the time was too short for any attack.
  """
  began = time.monotonic()
  with published.opened(out, key, passphrase, photos) as pairs:
    rows, victim = Rows(pairs.store.audits, private.Audit), _longest(pairs.choice.victims)
    pretrained = None
    if weights:
      fitting = proof.pretrained(pairs.choice, weights, pairs.classes)
      pretrained = _longest(fitting)
    attacks = [
      attack
      for attack in ATTACKS
      if (pretrained or not attack.pretrained) and (pairs.choice.patterned or not attack.repeats)
    ]
    loaded = pairs.sets(WHOLE)
    started = time.monotonic()
    clean, _ = _reached(pairs, ATTACKS[0], victim, loaded[0], loaded[0])
    plain = time.monotonic() - started
    chance = proof.chance_of(pairs.labels[pairs.held_out])
    if clean - chance < verdict.LEARNS_FROM:
      raise UserError(
        f"A network that learns from the originals recognises only {clean:.0f} % of "
        f"{pairs.held_out.sum()} held-out pictures, and guessing gives {chance:.0f} %, so nothing "
        "can be concluded: add pictures."
      )
    untouched = None
    for number, attack in enumerate(attacks):
      left = None if seconds is None else seconds - (time.monotonic() - began)
      takes = plain * (attack.cost + _purifying(pairs, attack, victim))
      if left is not None and number and left < takes:
        names = ", ".join(later.said for later in attacks[number:])
        say(f"The time is up; not tried: {names}.")
        break
      if takes > plain:
        say(f"Trying {attack.said}, which takes {estimate.duration(takes)} ...")
      sets = loaded if attack.pipeline == WHOLE else pairs.sets(attack.pipeline)
      learner = pretrained if pretrained and attack.pretrained else victim
      row = _row(pairs, attack, clean, *_reached(pairs, attack, learner, *sets))
      untouched = untouched or row
      bare = verdict.judge(untouched["share"]) == verdict.NOT_PROTECTED
      if bare:
        row["advice"] = untouched["advice"]  # no attack is needed
      rows.append(row)
      say(_line(row, advise=not bare or row is untouched))
    found = private.verdict_of(pairs.store)
    if found and files.exists(pairs.store.noted):
      page.write(pairs.store, found, pairs.folders)
    private.repeat(out)
    return _concluded(private.by_audit(rows.read()), threshold)


def audit_all(
  runs: pathlib.Path,
  passphrase: str | None,
  seconds: float | None,
  threshold: float,
) -> bool:
  """Audits every protected folder below a folder; those that cannot be audited are reported.

  Args:
    runs: Folder that holds published folders, each with its private folder and key next to it; one
      that lacks either is reported.
    passphrase: Passphrase of all keys.
    seconds: Seconds that all audits may take together; None sets no limit.
    threshold: As for `audit`.

  Returns:
    Whether no attack on any folder gave back more than the threshold.

  Raises:
    UserError: There is no protected folder, or some could not be audited and no attack on the
      others gave back more than the threshold.
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
      if not audit(out, None, passphrase, None, left, threshold, None):
        fallen.append(str(out))
    except UserError as error:
      failed.append(str(out))
      say(f"Not audited: {error}")
  say(f"{len(outs) - len(failed)} of {len(outs)} protected folders were audited.")
  missed = f"Not audited, for the reasons above: {', '.join(failed)}."
  if failed and not fallen:
    raise UserError(missed)
  if failed:
    say(missed)
  if fallen:
    say(f"Attacks give back more than {threshold:g} % in {', '.join(fallen)}.")
  return not fallen


def _concluded(audits: list[list[dict[str, Any]]], threshold: float) -> bool:
  """Prints the strongest attack of the latest audit; returns whether it is below the threshold.

  Raises:
    UserError: No attack was tried, and the files as they are stay below the threshold.
  """
  *earlier, row = (max(audit, key=lambda row: row["share"]) for audit in audits)
  share, judgement = f"{100 * row['share']:.0f} %", verdict.judge(row["share"])
  if len(audits[-1]) == 1:
    said = f"The files as they are give {share} of what the originals teach."
  elif row["attack"] == private.UNTOUCHED:
    said = (
      f"No attack gives back more than the files as they are: {share} of what the originals teach, "
      f"{judgement}."
    )
  else:
    said = (
      f"The strongest attack, {row['attack']}, gives back {share} of what the originals teach: "
      f"{judgement}."
    )
  if earlier:
    before, now = (len(audit) for audit in audits[-2:])
    tried = "" if before == now else f", of {counted(before, 'attack')} instead of {now}"
    said += f" On {earlier[-1]['date']} it was {100 * earlier[-1]['share']:.0f} %{tried}."
  say(said)
  if 100 * row["share"] <= threshold:
    if len(audits[-1]) == 1:
      raise UserError("No attack was tried, so nothing is concluded: allow more --time.")
    return True
  say(f"That is more than {threshold:g} %. What to do next: {row['advice']}.")
  return False


def _longest(victims: Sequence[Victim]) -> Victim:
  return max(victims, key=lambda victim: victim.epochs)


def _reached(
  pairs: Pairs, attack: Attack, victim: Victim, originals: np.ndarray, published: np.ndarray
) -> tuple[float, int]:
  """Returns a victim's best accuracy (percent) by an attack, and the number of test pictures."""
  tested = pairs.held_out
  if attack.pairs:
    known, tested = _halves(pairs)
    published = published.copy()
    published[~pairs.held_out] = purification.restored(
      published[~pairs.held_out], published[known], originals[known], pairs.choice.seed
    )
  (row,) = proof.rows_of(
    pairs.choice,
    victim,
    {"pictures": published[~pairs.held_out]},
    pairs.labels[~pairs.held_out],
    (originals[tested], pairs.labels[tested]),
    defences=(_defence(pairs, attack),),
  )
  # Defences that learn from clean images take them from the test.
  count = row.get("test_images", int(tested.sum()))
  return max(row["test_accuracy"], row["peak_test_accuracy"]), count


def _defence(pairs: Pairs, attack: Attack) -> str:
  """Returns the name of the defence with which the victim of an attack trains."""
  if not attack.repeats:
    return attack.defence
  return f"{attack.defence}{patterns.period(pairs.choice, pairs.classes)}"


def _purifying(pairs: Pairs, attack: Attack, victim: Victim) -> float:
  """Returns the FLOPs of a purifier's own network, as a multiple of those of the victim."""
  learning = int((~pairs.held_out).sum())
  image = (pairs.choice.seen, pairs.choice.seen, 3)
  if attack.pairs:
    flops = purification.restored_flops(image, learning)
  elif purifier := defences.build(_defence(pairs, attack)).flops:
    flops = purifier(image, learning)
  else:
    return 0.0
  return flops / estimate.flops(pairs.choice, victim, learning, pairs.classes)


def _halves(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
  """Returns masks of the two halves of the held-out pictures, bool `[N]`."""
  held_out = np.flatnonzero(pairs.held_out)
  chosen = stratified(pairs.labels[held_out], len(held_out) // 2, pairs.choice.seed, Draw.CLEAN)
  known = np.zeros(len(pairs.labels), bool)
  known[held_out[chosen]] = True
  return known, pairs.held_out & ~known


def _row(pairs: Pairs, attack: Attack, clean: float, reached: float, count: int) -> dict[str, Any]:
  chance = proof.chance_of(pairs.labels[pairs.held_out])
  low, high = proof.interval(reached, count)
  return {
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    "version": __version__,
    "attack": attack.said,
    "published": reached,
    "interval": [low, high],
    "originals": clean,
    "chance": chance,
    "share": max(0.0, (reached - chance) / (clean - chance)),
    "pictures": count,
    "advice": attack.advice(pairs.choice),
  }


def _line(row: dict[str, Any], *, advise: bool) -> str:
  judgement = verdict.judge(row["share"])
  low, high = row["interval"]
  line = (
    f"{row['attack'][0].upper()}{row['attack'][1:]}: {row['published']:.0f} % ({low:.0f} to "
    f"{high:.0f} %; originals {row['originals']:.0f} %, guessing {row['chance']:.0f} %), "
    f"{judgement}."
  )
  advise &= judgement != verdict.PROTECTED
  return f"{line} Advice: {row['advice']}." if advise else line
