"""The one exception that a user is meant to read."""


class UserError(Exception):
  """Something the user can put right: a config, a path, an image, a poison, a checkpoint.

  The message is one sentence that says what is wrong and what to do about it. `main` prints it
  without a traceback and leaves with exit status 2.
  """
