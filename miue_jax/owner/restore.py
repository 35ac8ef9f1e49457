"""Restores originals, and says what was restored and what was not."""

import pathlib

from miue_jax.machine import files
from miue_jax.machine.terminal import counted, say
from miue_jax.owner import archive, private
from miue_jax.owner.load import named
from miue_jax.pictures import restore as pictures
from miue_jax.pictures.key import Key
from miue_jax.settings.errors import UserError


def restore(
  out: pathlib.Path,
  destination: pathlib.Path,
  key: pathlib.Path | None,
  passphrase: str | None,
) -> bool:
  """Restores all pictures of a folder that a key knows; returns whether these are all.

  Args:
    out: Folder of published pictures, or of an archive; or the archive itself.
    destination: Folder of the originals.
    key: Path of the key; None is that of the key next to `out`.
    passphrase: Passphrase of the key, if it is encrypted.

  Raises:
    UserError: There is no key, it cannot be read, or the destination cannot be written.
  """
  if not files.exists(out):
    raise UserError(f"There is no folder {out}: name that of the published pictures.")
  if files.is_folder(out):
    pictures.check_apart(out, destination)
  elif not archive.is_archive(out):
    raise UserError(f"{out} is neither a folder nor an archive: name that of published pictures.")
  path = private.key_of(out, key)
  with Key.open(path, passphrase) as secret:
    if found := archive.found_in(out):
      whole = [archive.unprotect(one, destination, secret) for one in found]
      private.repeat(out, path)
      return all(whole)
    outcome = pictures.restore(out, destination, secret)
    if outcome.refused and secret.cut_off:
      say(f"{path} is cut off, as an incomplete copy is: use a whole copy for what is missing.")
  if outcome.strange:
    say(pictures.nothing(secret, counted(len(outcome.refused), "picture"), out))
    return False
  say(f"Restored to {destination}: {counted(len(outcome.restored), 'original')}.")
  if outcome.refused:
    say(f"Not restored: {counted(len(outcome.refused), 'file')}:")
    say("\n".join(f"  {name}: {reason}" for name, reason in outcome.refused))
  if outcome.missing:
    say(f"Known to the key, but not found: {counted(len(outcome.missing), 'picture')}:")
    say(f"  {named(outcome.missing)}")
  private.repeat(out, path)
  return bool(outcome.restored) and not outcome.refused
