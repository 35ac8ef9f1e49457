"""Starts the program of owners: the command `miue-jax`, and `python -m miue_jax`."""

from miue_jax.machine import exits, surroundings


def console() -> None:
  """Catches signals before the imports, which take a second, and runs the program."""
  exits.catch()
  surroundings.prepare()
  from miue_jax import cli

  cli.main()


if __name__ == "__main__":
  console()
