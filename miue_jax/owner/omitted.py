"""Names what a protection leaves out: a part of it on the terminal, all of it in a file."""

from collections.abc import Collection, Sequence

from miue_jax.machine import files
from miue_jax.machine.terminal import counted, say
from miue_jax.owner.load import Loaded, named
from miue_jax.owner.private import Private
from miue_jax.pictures import survey
from miue_jax.pictures.entries import Entry
from miue_jax.pictures.survey import Survey
from miue_jax.settings.errors import escaped


def tell_failed(loaded: Loaded) -> None:
  """Prints the pictures that cannot be read."""
  if loaded.failed:
    said = f"Left out, because they cannot be read: {counted(len(loaded.failed), 'file')}:"
    say("\n".join([said, *survey.indented(loaded.failed)]))


def lines(
  found: Survey,
  loaded: Loaded,
  classes: Collection[str],
  entries: Sequence[Entry] = (),
) -> list[str]:
  """Returns a line about everything that is left out, and prints the pictures of new classes.

  Args:
    found: The pictures, and what is left out for its name or kind.
    loaded: The pictures that could be read.
    classes: The classes that the source model knows; pictures of others cannot be perturbed.
    entries: What the key knows. A known picture of a new class must not get another perturbation.
  """
  result = [f"{item.path}: {item.reason}" for item in found.left_out] + list(loaded.failed)
  published = {entry.source: entry.class_name for entry in entries}
  pairs = zip(loaded.pictures, loaded.sources, strict=True)
  if new := [pair for pair in pairs if pair[0].class_name not in classes]:
    later = [picture for picture, _ in new]
    names = named(sorted({picture.class_name for picture in later}))
    said = f"NOT published, because the class is new ({names}): {counted(len(later), 'picture')}."
    old = [published[source] for _, source in new if source in published]
    if len(old) < len(new):
      said += " Protect such folders into another OUT."
    say("\n".join([said, *survey.indented([picture.path for picture in later])]))
    if old:
      say(
        f"{counted(len(old), 'picture')} of these had another class when published "
        f"({named(sorted(set(old)))}): give the class its old name again, because another OUT "
        "would give them a second perturbation."
      )
    result += [f"{picture.path}: its class is new" for picture in later]
  return result


def write(store: Private, left_out: Sequence[str]) -> None:
  """Writes all lines into a file of the private folder, and prints where it is.

  Raises:
    UserError: The file cannot be written.
  """
  files.remove(store.left_out)
  if left_out:
    text = "".join(f"{escaped(line)}\n" for line in left_out)
    files.write_texts(store.root, {store.left_out.name: text})
    say(f"All that is left out is named in {store.left_out}.")
