"""Verifies a protection: several victims learn from files that are loaded as scrapers load them."""

import pathlib
import shutil

import numpy as np

from miue_jax import __version__
from miue_jax.machine import files
from miue_jax.machine.terminal import say
from miue_jax.owner import page, pipelines, private, proof, published, torch_victim
from miue_jax.owner.proof import Trial
from miue_jax.owner.published import Pairs
from miue_jax.report.verdict import Verdict


def verify(
  out: pathlib.Path,
  key: pathlib.Path | None,
  passphrase: str | None,
  photos: pathlib.Path | None,
  torch: bool,
  weights: pathlib.Path | None,
) -> Verdict:
  """Trains every victim on originals and on published files; prints what each learned.

  Args:
    out: Folder of published pictures.
    key: Path of the key; None is that of the key next to `out`.
    passphrase: Passphrase of the key.
    photos: Folder of the originals; None is the folder from which they were protected.
    torch: Whether to train a victim in PyTorch as well.
    weights: File of weights that `--mode=pretrain` wrote, from which victims also start; or None.

  Returns:
    The verdict about the strongest victim. Later commands and the page repeat it, unless originals
    are missing or have other pixels than those that were protected.

  Raises:
    UserError: There is no key, too few originals are there, PyTorch is not installed, or no victim
      has the network of the weights.
  """
  if torch:
    torch_victim.require()
  with published.opened(out, key, passphrase, photos) as pairs:
    tested, labels = pairs.held_out, pairs.labels
    chance = proof.chance_of(labels[tested])
    say(f"Guessing gives {chance:.0f} % of {tested.sum()} held-out pictures.")
    victims, trials = pairs.choice.victims, []
    if weights:
      victims += proof.pretrained(pairs.choice, weights, pairs.classes)
    for name in pipelines.USUAL:
      originals, public = pairs.sets(name)
      content = proof.content_of(originals, public, labels)
      folder = pairs.store.verifying / __version__ / content
      for number, victim in enumerate(victims):
        found = proof.compared(
          pairs.choice,
          victim,
          originals,
          public,
          labels,
          tested,
          sees=f" and sees {name}",
          workdir=None if victim.start_from else folder / f"{number}",
        )
        trials += _said(found)
      if torch:
        trials += _said(_in_torch(pairs, originals, public, name))
    shutil.rmtree(pairs.store.verifying, ignore_errors=True)
    found = proof.judged(pairs.choice, trials, labels[tested])
    if pairs.complete and files.exists(pairs.store.noted):
      proof.keep(pairs.store, found, trials, len(labels))
      found = private.rejudge(pairs.store, pairs.unprotected.judged)
      page.write(pairs.store, found, pairs.folders)
      return found
    why = "originals or published files are missing or have changed"
    why = "`protect` has not ended" if pairs.complete else why
    say(f"Later commands do not repeat this verdict, because {why}.")
    return pairs.unprotected.judged(found)


def _in_torch(
  pairs: Pairs, originals: np.ndarray, published: np.ndarray, pipeline: str
) -> list[Trial]:
  """Returns the trials of a victim in PyTorch, after its last and at its best epoch."""
  tested, labels = pairs.held_out, pairs.labels
  test = originals[tested], labels[tested]
  reached = (
    torch_victim.train((images[~tested], labels[~tested]), test, pairs.choice.seed)
    for images in (published, originals)
  )
  label = f"{torch_victim.LABEL} that sees {pipeline}"
  return [
    Trial(label + moment, *both)
    for moment, both in zip(proof.MOMENTS, zip(*reached, strict=True), strict=True)
  ]


def _said(found: list[Trial]) -> list[Trial]:
  """Prints the trials of a victim, and returns them."""
  last, best = found
  say(
    f"{last.victim}: {last.published:.0f} % from published files (best epoch "
    f"{best.published:.0f} %), {last.originals:.0f} % from originals (best epoch "
    f"{best.originals:.0f} %)."
  )
  return found
