"""Encrypts the records of a key with age, by the optional package pyrage."""

import base64
import json
import os
import time
from typing import Any

from miue_jax.settings.errors import UserError, first_line

# age refuses any passphrase if it measures that this machine is about 16 times slower than when the
# passphrase was chosen. It can seem so for a moment while other programs run.
_BUSY = "Excessive work"
_TRIES, _PAUSE = 8, 0.5  # the pause in seconds


class Cipher:
  """Encrypts for a public key of age and decrypts with its secret key."""

  def __init__(self, identity: Any):
    self._pyrage, self._identity = required(), identity
    self._recipients = [identity.to_public()]

  @classmethod
  def new(cls, passphrase: str) -> "Cipher":
    """Makes a secret key at random.

    Raises:
      UserError: The package pyrage is missing, or the passphrase is empty.
    """
    check(passphrase)
    return cls(required().x25519.Identity.generate())

  def stored(self, passphrase: str) -> bytes:
    """Returns the secret key, encrypted with a passphrase."""
    secret = self._pyrage.passphrase.encrypt(str(self._identity).encode(), passphrase)
    return json.dumps({"age": base64.b64encode(secret).decode()}).encode()

  @classmethod
  def opened(cls, content: bytes, passphrase: str | None, path: str | os.PathLike) -> "Cipher":
    """Decrypts what `stored` returned.

    Raises:
      UserError: There is no passphrase or a wrong one, pyrage is missing, or the machine is busy.
    """
    if not passphrase:
      raise UserError(f"{path} is encrypted: give its passphrase, with --passphrase.")
    pyrage = required()
    try:
      secret = base64.b64decode(json.loads(content)["age"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      raise UserError(f"{path} is damaged: copy it again.") from error
    try:
      text = _decrypted(pyrage, secret, passphrase).decode()
      return cls(pyrage.x25519.Identity.from_str(text))
    except Exception as error:  # The classes of pyrage's exceptions are not documented.
      if _BUSY in str(error):
        raise UserError(
          f"This machine is too busy to open {path} with a passphrase, which may be right: wait "
          "until other programs have ended."
        ) from error
      raise UserError(f"The passphrase does not open {path}: correct it.") from error

  def encrypt(self, plain: bytes) -> bytes:
    """Returns an age file."""
    return self._pyrage.encrypt(plain, self._recipients)

  def decrypt(self, content: bytes, path: str | os.PathLike) -> bytes:
    """Returns the content of an age file.

    Raises:
      UserError: The content was altered.
    """
    try:
      return self._pyrage.decrypt(content, [self._identity])
    except Exception as error:  # as above
      raise UserError(f"{path} is damaged ({first_line(error)}): copy it again.") from error


def _decrypted(pyrage: Any, secret: bytes, passphrase: str) -> bytes:
  """Decrypts with a passphrase, and tries again while the machine seems too slow."""
  for _ in range(_TRIES - 1):
    try:
      return pyrage.passphrase.decrypt(secret, passphrase)
    except Exception as error:
      if _BUSY not in str(error):
        raise
    time.sleep(_PAUSE)
  return pyrage.passphrase.decrypt(secret, passphrase)


def check(passphrase: str) -> None:
  """Checks a new passphrase.

  Raises:
    UserError: It is empty.
  """
  if not passphrase.strip():
    raise UserError("The passphrase is empty: choose one that nobody can guess.")


def required() -> Any:
  """Returns the package that encrypts.

  Raises:
    UserError: It is not installed.
  """
  try:
    import pyrage  # optional
  except ImportError as error:
    raise UserError("A passphrase needs pyrage: run pip install 'miue-jax[encrypt]'.") from error
  return pyrage
