"""Says what time, memory and energy a protection will take, before it starts."""

import os
import pathlib
import secrets
from collections.abc import Callable, Mapping

from miue_jax.machine import files
from miue_jax.machine.terminal import counted, say
from miue_jax.owner import archive, choose, clusters, estimate, load, patterns, private
from miue_jax.owner.choose import Choice
from miue_jax.owner.estimate import Estimate
from miue_jax.owner.request import Request
from miue_jax.pictures import survey
from miue_jax.pictures.survey import Survey
from miue_jax.settings.errors import UserError


def plan(
  photos: pathlib.Path,
  strength: str | None,
  labels: pathlib.Path | None,
  groups: int,
  watts: float,
  price: float | None,
  *,
  recompressed: bool = False,
) -> None:
  """Prints time, memory, energy and perhaps the cost of a protection.

  Args:
    photos: Folder or archive of the pictures.
    strength: One of `choose.STRENGTHS`; None is the default.
    labels: CSV file of classes, or None.
    groups: Number of groups of pictures that have no labels; 0 if they have classes.
    watts: Power of this machine.
    price: Price of one kilowatt-hour, in any currency; None leaves the cost out.
    recompressed: Whether a site compresses the published pictures again as JPEG.

  Raises:
    UserError: There are too few pictures or classes, or an archive, which has labels, is to be
      grouped or labelled.
  """
  if groups and archive.is_archive(photos):
    raise UserError(f"{photos} has labels: leave --clusters out.")
  with archive.as_folder(photos, labels) as folder:
    found = surveyed(Request(folder, private.path_of(photos), labels=labels), bool(groups))
    say(found.describe())
    counts = clusters.counts(found, groups)
    _, expected = _measured(
      folder, found, counts, strength or choose.STRENGTH, 0, recompressed=recompressed
    )
  say(expected.describe())
  energy = watts * expected.seconds / 3600
  cost = "" if price is None else f" at a cost of {_amount(energy / 1000 * price)}"
  said = f"{energy:.0f} watt-hours" if energy >= 1 else "less than one watt-hour"
  say(f"At {watts:g} watts, that is {said} of energy{cost}; nothing has been changed yet.")
  private.repeat_about(photos)


def _amount(cost: float) -> str:
  return "less than 0.01" if 0 < cost < 0.005 else f"{cost:,.2f}"


def surveyed(request: Request, unlabelled: bool) -> Survey:
  """Returns the pictures of a folder, without what this program wrote there.

  Raises:
    UserError: There is no such folder, or it holds no picture.
  """
  own = (request.out, request.key_path, private.path_of(request.out))
  own += (request.labels,) if request.labels else ()
  return survey.survey(
    request.photos,
    exclude=own,
    labels=request.labels,
    unlabelled=unlabelled,
    strict=request.strict,
  )


def chosen(request: Request, found: Survey, ask: Callable[[str], None]) -> tuple[Choice, Estimate]:
  """Returns the choice for a new protection, after a question; `ask` ends the program after a no.

  The estimate of what it takes is returned as well.

  Raises:
    UserError: There are too few pictures or classes, or the results cannot be written.
  """
  counts = clusters.counts(found, request.clusters)
  if request.clusters:
    say(
      f"The pictures are sorted into {request.clusters} groups of similar ones. The test is about "
      "these groups, not about classes that a scraper may name."
    )
  with files.reported("read", request.photos):
    size = sum(os.path.getsize(request.photos / picture.path) for picture in found.pictures)
  files.require_space(request.out, size)
  for place in (private.path_of(request.out), request.key_path):
    files.require_space(place, 0)  # they take little
  seed = secrets.randbits(32) if request.seed is None else request.seed
  strength = request.strength or choose.STRENGTH
  choice, expected = _measured(
    request.photos, found, counts, strength, seed, recompressed=request.recompressed
  )
  if request.seconds is not None:
    left = request.seconds - expected.files - expected.compiling
    shorter = choose.within(choice, expected.making, expected.proving, left)
    choice, expected = shorter, expected.of_epochs(choice, shorter)
  say(expected.describe())
  if request.seconds is not None and expected.seconds > request.seconds:
    say("That is more than --time, even with the fewest epochs that help.")
  pictures = counted(len(found.pictures), "picture")
  ask(f"Protect {pictures} with strength {strength} into {request.out}?")
  return choice, expected


def _measured(
  folder: pathlib.Path,
  found: Survey,
  counts: Mapping[str, int],
  strength: str,
  seed: int,
  *,
  recompressed: bool = False,
) -> tuple[Choice, Estimate]:
  """Returns the choice for pictures, and what it takes on this machine; prints advice."""
  like = load.sampled(folder, found.pictures)
  choice = choose.choose(
    counts, strength, like.side, seed, gray=like.gray, recompressed=recompressed
  )
  for advice in choose.advice(counts, like.side, narrow=like.narrow):
    say(advice)
  if like.gray:
    say(patterns.GRAY)
  if recompressed and not choice.recompressed:
    say(choose.USELESS)
  say("Measuring how long this machine takes ...")
  estimate.start(choice, len(found.pictures))
  return choice, estimate.estimate(choice, folder, found.pictures, len(counts))
