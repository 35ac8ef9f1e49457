"""Names pictures among the published ones that are not protected: foreign and altered files."""

import dataclasses
from collections.abc import Callable, Collection

from miue_jax.machine import progress
from miue_jax.machine.terminal import counted
from miue_jax.owner.load import named
from miue_jax.owner.request import Request
from miue_jax.pictures import names, publish
from miue_jax.pictures.key import Key
from miue_jax.report import verdict
from miue_jax.report.verdict import Verdict


def tell(
  request: Request, secret: Key, originals: Collection[str], say: Callable[[str], None]
) -> int:
  """Names the pictures in the folder that are not protected, and returns their number.

  Args:
    request: What was asked for.
    secret: The key.
    originals: Paths of the originals that are still there.
    say: Prints a line.
  """
  known = {names.same(entry.published) for entry in secret.entries}
  others = [path for path in publish.all_published(request.files) if names.same(path) not in known]
  if others:
    say(
      f"NOT protected, although in {request.files}: {counted(len(others), 'picture')} "
      f"({named(others)}). This program did not publish them: move them away."
    )
  entries = secret.entries
  checked = progress.each_shown(
    lambda entry: publish.is_altered(entry, request.files), entries, "checking"
  )
  altered = [entry for entry, found in zip(entries, checked, strict=True) if found]
  again = [entry.published for entry in altered if entry.name in originals]
  lost = [entry.published for entry in altered if entry.name not in originals]
  said = "NOT protected any more, because altered:"
  if again:
    say(
      f"{said} {counted(len(again), 'picture')} in {request.files} ({named(again)}). Delete what "
      "is altered, and the same command publishes it again."
    )
  if lost:
    say(
      f"{said} {counted(len(lost), 'picture')} in {request.files} ({named(lost)}). Without its "
      "original a picture cannot be made again: put back a copy of the published file, or move it "
      "away."
    )
  return len(others) + len(altered)


def judged(found: Verdict, count: int) -> Verdict:
  """Returns a verdict that also counts pictures among the published ones without protection."""
  if not count:
    return found
  said = (
    f"{counted(count, 'picture')} among the published ones, named above, must not be published."
  )
  return dataclasses.replace(
    found,
    judgement=verdict.NOT_PROTECTED,
    sentence=f"{said} The others: {found.judgement}. {found.sentence}",
  )
