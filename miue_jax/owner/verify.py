"""Verifies a protection: several victims, through the loaders of scrapers."""

import pathlib
from collections.abc import Callable

from miue_jax.owner import pipelines, proof, published
from miue_jax.report.verdict import Verdict

_PIPELINES = tuple(pipelines.PIPELINES)[:4]


def verify(
  out: pathlib.Path,
  key: pathlib.Path | None,
  passphrase: str | None,
  photos: pathlib.Path | None,
  say: Callable[[str], None],
) -> Verdict:
  """Trains every victim on originals and on published files, and prints what each learned.

  Returns:
    The verdict about the strongest victim; arguments and errors are those of `published.opened`.
  """
  with published.opened(out, key, passphrase, photos, say) as pairs:
    tested, labels = pairs.held_out, pairs.labels
    chance = proof.chance_of(labels[tested])
    say(f"Guessing gives {chance:.0f} % of {tested.sum()} held-out pictures.")
    trials = []
    for name in _PIPELINES:
      originals, files = pairs.sets(name)
      for victim in pairs.choice.victims:
        found = proof.compared(
          pairs.choice, victim, originals, files, labels, tested, sees=f" and sees {name}"
        )
        trials += found
        say(
          f"{found[0].victim}: {found[0].published:.0f} % from published files (best epoch "
          f"{found[1].published:.0f} %), {found[0].originals:.0f} % from originals."
        )
    return proof.judged(trials, labels[tested])
