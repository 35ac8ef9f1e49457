"""Names pictures among the published ones that are not protected: foreign and altered files."""

import dataclasses
import pathlib
from collections.abc import Collection

from miue_jax.machine import files, progress
from miue_jax.machine.terminal import counted, say
from miue_jax.owner.load import named
from miue_jax.pictures import names, publish
from miue_jax.pictures.entries import Entry
from miue_jax.pictures.key import Key
from miue_jax.report import verdict
from miue_jax.report.verdict import Verdict


@dataclasses.dataclass(frozen=True)
class Unprotected:
  """Holds the pictures among the published ones that are not protected.

  Attributes:
    others: Paths of files that this program did not publish.
    altered: Entries of published files that have other pixels now, or cannot be read.
  """

  others: tuple[str, ...]
  altered: tuple[Entry, ...]

  def judged(self, found: Verdict) -> Verdict:
    """Returns a verdict that also counts these pictures."""
    count = len(self.others) + len(self.altered)
    if not count:
      return found
    said = (
      f"{counted(count, 'picture')} among the published ones must not be published, because they "
      "were altered, or this program published no pictures of their names; `protect` and `verify` "
      "name them."
    )
    return dataclasses.replace(
      found,
      judgement=verdict.NOT_PROTECTED,
      sentence=f"{said} The others: {found.judgement}. {found.sentence}",
    )


def tell(out: pathlib.Path, secret: Key, originals: Collection[str]) -> Unprotected:
  """Names the pictures in a folder that are not protected, and returns them.

  `originals` are the paths of the originals that are still there.
  """
  known = {names.same(entry.published) for entry in secret.entries}
  there = publish.all_published(out) if files.is_folder(out) else []
  # The original's name may have another picture now.
  known |= {names.same(e.published) for e in secret.left if not publish.is_altered(e, out)}
  others = [path for path in there if names.same(path) not in known]
  if others:
    say(
      f"NOT protected, although in {out}: {counted(len(others), 'picture')} ({named(others)}). "
      "This program published no pictures of these names: move them away, or rename them back."
    )
  entries = secret.entries
  checked = progress.each_shown(lambda entry: publish.is_altered(entry, out), entries, "checking")
  altered = [entry for entry, found in zip(entries, checked, strict=True) if found]
  again = [entry.published for entry in altered if entry.name in originals]
  lost = [entry.published for entry in altered if entry.name not in originals]
  said = "NOT protected any more, because altered:"
  if again:
    say(
      f"{said} {counted(len(again), 'picture')} in {out} ({named(again)}). Delete what is altered, "
      "and `protect` publishes it again."
    )
  if lost:
    say(
      f"{said} {counted(len(lost), 'picture')} in {out} ({named(lost)}). Without its original a "
      "picture cannot be made again: put back a copy of the published file, or move it away."
    )
  return Unprotected(tuple(others), tuple(altered))
