"""`miue-jax protect PHOTOS OUT`: the program of people who own pictures.

Exit status: 0 done; 1 something could not be restored, or a question was answered with no; 2
something you can put right, in one sentence; 4 an audit found that the protection fell; 128 +
signal number after SIGINT or SIGTERM: the same command continues.
"""

import logging
import os
import pathlib
import re
import signal
import sys
from typing import Annotated, Literal

import typer

from miue_jax import __version__
from miue_jax.settings.errors import UserError

app = typer.Typer(
  name="miue-jax",
  add_completion=False,
  no_args_is_help=False,
  rich_markup_mode=None,
  pretty_exceptions_enable=False,
  context_settings={"help_option_names": ["-h", "--help"]},
)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_Photos = Annotated[
  pathlib.Path, typer.Argument(help="Folder of pictures, a folder in it for each class.")
]
_Out = Annotated[pathlib.Path, typer.Argument(help="Folder of the published pictures.")]
_Key = Annotated[pathlib.Path | None, typer.Option(help="The key; OUT.key if left out.")]
_Originals = Annotated[
  pathlib.Path | None, typer.Option(help="Folder of the originals, if it was moved.")
]
_Labels = Annotated[
  pathlib.Path | None, typer.Option(help="CSV file with the columns file and class.")
]
_Strength = Annotated[
  Literal["low", "medium", "high"] | None,
  typer.Option(help="Largest change of a pixel: 4, 8 or 16 of 255; medium if left out."),
]
_Time = Annotated[str | None, typer.Option(metavar="30m", help="Time that the work may take.")]
_Passphrase = Annotated[
  bool, typer.Option("--passphrase", help="Ask for a passphrase, which encrypts the key.")
]


def seconds_of(text: str | None) -> float | None:
  """Returns the seconds of a time such as "30m", or None."""
  if text is None:
    return None
  found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
  if not found or not float(found[1]):
    raise UserError(f"--time {text!r} is no time: write 90s, 30m, 2h or 1d.")
  return float(found[1]) * _UNITS[found[2]]


def _secret(wanted: bool) -> str | None:
  """Asks for a passphrase; MIUE_JAX_PASSPHRASE in the environment answers for programs."""
  if not wanted:
    return None
  return os.environ.get("MIUE_JAX_PASSPHRASE") or typer.prompt("Passphrase", hide_input=True)


def _ask(question: str) -> None:
  if not sys.stdin.isatty():
    raise UserError("Nobody can answer the question here: add --yes.")
  if not typer.confirm(question, default=True):
    raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _start(
  context: typer.Context,
  version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
  """Protects folders of pictures from being learned, proves it, and restores them with a key.

  \b
  miue-jax protect PHOTOS OUT               publish OUT, keep OUT.key and OUT.private
  miue-jax restore OUT DEST --key OUT.key   the originals, bit for bit

  Researchers use `python -m miue_jax.main --help`.
  """  # noqa: D301 (the backslash keeps lines apart)
  if version:
    typer.echo(f"miue-jax {__version__}")
  elif context.invoked_subcommand is None:
    typer.echo(context.get_help())


@app.command()
def protect(
  photos: _Photos,
  out: _Out,
  strength: _Strength = None,
  time: _Time = None,
  format: Annotated[
    Literal["png", "webp", "jpeg"], typer.Option(help="Format of the published files.")
  ] = "png",
  labels: _Labels = None,
  keep_metadata: Annotated[
    bool, typer.Option("--keep-metadata", help="Keep places, times and cameras in the files.")
  ] = False,
  shareable: Annotated[
    bool, typer.Option("--shareable", help="Write a page without pictures and names as well.")
  ] = False,
  strict: Annotated[
    bool, typer.Option("--strict", help="Stop at a file that cannot be read.")
  ] = False,
  yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
  key: _Key = None,
  passphrase: _Passphrase = False,
  seed: Annotated[
    int | None,
    typer.Option(
      min=0, max=2**32 - 1, help="Seed of a repeatable run; drawn at random if left out."
    ),
  ] = None,
) -> None:
  """Protects all pictures of PHOTOS, or those that are new, and proves the protection.

  \b
  miue-jax protect photos public
  miue-jax protect photos public --strength high --time 30m --yes
  miue-jax protect flat public --labels classes.csv --format webp
  """  # noqa: D301 (the backslash keeps lines apart)
  seconds = seconds_of(time)
  from miue_jax.owner import private
  from miue_jax.owner import protect as work

  secret = _secret(passphrase)
  request = work.Request(
    photos,
    out,
    strength,
    seconds,
    format,
    keep_metadata,
    strict,
    labels,
    key,
    secret,
    seed,
    shareable,
  )
  verdict = work.protect(request, (lambda _: None) if yes else _ask, typer.echo)
  typer.echo(private.said(verdict))


@app.command()
def restore(
  out: _Out,
  dest: Annotated[pathlib.Path, typer.Argument(help="Folder of the restored originals.")],
  key: _Key = None,
  passphrase: _Passphrase = False,
) -> None:
  """Restores the originals of published pictures, bit for bit.

  Pictures are known by their pixels: they may have other names, and some may be missing.

  \b
  miue-jax restore public originals
  miue-jax restore some-of-them originals --key public.key
  """  # noqa: D301 (the backslash keeps lines apart)
  from miue_jax.owner import restore as work

  complete = work.restore(out, dest, key, _secret(passphrase), typer.echo)
  if not complete:
    raise typer.Exit(1)


@app.command()
def verify(
  out: _Out, photos: _Originals = None, key: _Key = None, passphrase: _Passphrase = False
) -> None:
  """Trains several networks on published files, loaded as scrapers do, and on the originals.

  \b
  miue-jax verify public
  """  # noqa: D301
  from miue_jax.owner import private
  from miue_jax.owner import verify as work

  verdict = work.verify(out, key, _secret(passphrase), photos, typer.echo)
  typer.echo(private.said(verdict))


@app.command()
def audit(
  folder: Annotated[pathlib.Path, typer.Argument(help="OUT of a protection, or PHOTOS before it.")],
  time: _Time = None,
  threshold: Annotated[
    float,
    typer.Option(
      min=0,
      max=100,
      help="Percent of what the originals teach; exit status 4 if an attack gives back more.",
    ),
  ] = 75.0,
  photos: _Originals = None,
  labels: _Labels = None,
  key: _Key = None,
  passphrase: _Passphrase = False,
) -> None:
  """Tries known attacks on a protected folder, or examines pictures before they are protected.

  \b
  miue-jax audit public --time 20m     what JPEG, cropping, gray and others give back
  miue-jax audit photos                broken files, duplicates, small classes
  """  # noqa: D301
  seconds = seconds_of(time)
  from miue_jax.pictures.key import default_path

  if not default_path(folder).exists() and photos is None:
    from miue_jax.owner import examine

    examine.examine(folder, labels, key, _secret(passphrase), typer.echo)
    return
  from miue_jax.owner import audit as work

  share = work.audit(folder, key, _secret(passphrase), photos, seconds, typer.echo)
  if 100 * share > threshold:
    typer.echo(f"An attack gives back {100 * share:.0f} % of what the originals teach.")
    raise typer.Exit(4)


@app.command()
def plan(
  photos: _Photos,
  strength: _Strength = None,
  labels: _Labels = None,
  watts: Annotated[float, typer.Option(min=0, help="Power of this machine.")] = 65.0,
  price: Annotated[
    float | None, typer.Option(min=0, help="Price of one kilowatt-hour; adds the cost.")
  ] = None,
) -> None:
  """Says how long a protection takes and what it costs, before anything is spent.

  \b
  miue-jax plan photos --watts 90 --price 0.30
  """  # noqa: D301
  from miue_jax.owner import plan as work

  work.plan(photos, strength, labels, watts, price, typer.echo)


def _leave(signum: int, frame: object) -> None:
  # SystemExit, because `except Exception` does not swallow it; os.write, because a print may be
  # what the signal interrupted.
  name = signal.Signals(signum).name
  os.write(
    2, f"miue-jax: {name}; what was finished is kept, the same command continues.\n".encode()
  )
  sys.exit(128 + signum)


def main() -> None:
  """Runs the program and leaves with an exit status."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, _leave)
  if not sys.stderr.isatty():
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("miue_jax").setLevel(logging.INFO)
  try:
    app()
  except UserError as error:
    print(f"miue-jax: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
