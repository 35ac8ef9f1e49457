"""Says what a protection will take, in words, before anything is spent."""

import pathlib
from collections.abc import Callable

from miue_jax.owner import archive, choose, clusters, estimate, load, private
from miue_jax.owner.protect import surveyed
from miue_jax.owner.protect_archive import as_folder
from miue_jax.owner.request import Request
from miue_jax.settings.errors import UserError


def plan(
  photos: pathlib.Path,
  strength: str | None,
  labels: pathlib.Path | None,
  groups: int,
  watts: float,
  price: float | None,
  say: Callable[[str], None],
) -> None:
  """Prints time, memory, energy and perhaps the cost of a protection.

  Args:
    photos: Folder or archive of the pictures.
    strength: One of `choose.STRENGTHS`; None is the default.
    labels: CSV file of classes, or None.
    groups: Number of groups of pictures that have no labels; 0 takes classes.
    watts: Power of this machine.
    price: Price of one kilowatt-hour, in any currency; None leaves the cost out.
    say: Prints a line.

  Raises:
    UserError: There are too few pictures or classes, or an archive is to be grouped.
  """
  if groups and archive.is_archive(photos):
    raise UserError(f"{photos} has labels: leave --clusters out.")
  with as_folder(photos) as folder:
    found = surveyed(Request(folder, private.path_of(photos), labels=labels), bool(groups))
    say(found.describe())
    counts = clusters.counts(found, groups)
    like = load.sampled(folder, found.pictures)
    choice = choose.choose(counts, strength or choose.STRENGTH, like.side, 0, gray=like.gray)
    for advice in choose.advice(counts, narrow=like.narrow):
      say(advice)
    say("Measuring how long this machine takes ...")
    estimate.start(choice, len(found.pictures))
    expected = estimate.estimate(choice, folder, found.pictures, len(counts))
  say(f"Protecting takes {estimate.duration(expected.seconds)}. {expected.describe()}")
  energy = watts * expected.seconds / 3600
  cost = "" if price is None else f" and cost {energy / 1000 * price:.2g}"
  said = f"{energy:.0f} watt-hours" if energy >= 1 else "less than one watt-hour"
  say(f"At {watts:g} watts, that is {said} of energy{cost}; nothing has been changed yet.")
  private.repeat_about(photos, say)
