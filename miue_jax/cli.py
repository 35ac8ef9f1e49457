"""`miue-jax protect PHOTOS OUT`: the program of people who own pictures.

Exit status: 0 done; 1 something could not be restored, or a question was answered with no; 2
a mistake that you can correct, in one sentence; 4 the verdict is "NOT protected", or an audit found
too little protection; 128 + signal number after SIGINT or SIGTERM: the same command continues, or
begins again.
"""

import dataclasses
import logging
import sys
from typing import TYPE_CHECKING

import typer

from miue_jax import __version__
from miue_jax.machine import surroundings, terminal
from miue_jax.owner import options
from miue_jax.settings.errors import UserError

if TYPE_CHECKING:
  from miue_jax.report.verdict import Verdict

app = typer.Typer(
  name="miue-jax",
  add_completion=False,
  rich_markup_mode=None,
  pretty_exceptions_enable=False,
  context_settings={"help_option_names": ["-h", "--help"]},
)
_THRESHOLD = 75.0  # percent

# The backslash at the start of a paragraph of help keeps its lines apart, hence D301. Commands
# import what they need after their arguments are checked: jax takes seconds.


@app.callback(invoke_without_command=True)
def _start(context: typer.Context, version: options.Version = False) -> None:
  """Protects folders of pictures from being learned, tests it, and restores them with a key.

  \b
  miue-jax protect PHOTOS OUT               publish OUT; keep OUT.key and OUT.private
  miue-jax restore OUT DEST --key OUT.key   the originals, bit for bit

  Researchers use `python -m miue_jax.main --help`.
  """  # noqa: D301
  if version:
    terminal.say(f"miue-jax {__version__}")
  elif context.invoked_subcommand is None:
    terminal.say(context.get_help())


@app.command()
def protect(
  photos: options.Photos,
  out: options.Out,
  strength: options.Strength = None,
  recompressed: options.Recompressed = False,
  time: options.Time = None,
  format: options.Format = "png",
  labels: options.Labels = None,
  clusters: options.Clusters = 0,
  keep_metadata: options.KeepMetadata = False,
  drop_author: options.DropAuthor = False,
  shareable: options.Shareable = False,
  strict: options.Strict = False,
  yes: options.Yes = False,
  key: options.Key = None,
  passphrase: options.Passphrase = False,
  seed: options.Seed = None,
) -> None:
  """Protects all pictures of PHOTOS, and tests the protection.

  The same command adds pictures that are new.

  \b
  miue-jax protect photos public
  miue-jax protect photos public --strength high --time 30m --yes
  miue-jax protect flat public --labels classes.csv --format webp
  miue-jax protect pneumoniamnist.npz public
  """  # noqa: D301
  seconds = options.seconds_of(time)
  options.check_clusters(clusters, labels)
  from miue_jax.machine import files
  from miue_jax.owner import archive
  from miue_jax.owner import protect as work
  from miue_jax.owner.protect_archive import protect_archive
  from miue_jax.owner.request import Request

  if not files.exists(photos):
    raise UserError(f"There is no folder or archive {photos}: correct the path.")
  request = Request(
    photos,
    out,
    strength=strength,
    recompressed=recompressed,
    seconds=seconds,
    format=format,
    keep_metadata=keep_metadata,
    drop_author=drop_author,
    strict=strict,
    labels=labels,
    key=key,
    seed=seed,
    shareable=shareable,
    clusters=clusters,
  )
  new = not files.exists(request.key_path)
  if new and not yes:
    _require_terminal()
  request = dataclasses.replace(request, passphrase=options.secret(passphrase, new=new))
  # Jobs that add pictures to a protection have no terminal, so nobody can answer.
  asked = not yes and (new or sys.stdin.isatty())
  answer = _ask if asked else (lambda question: None)
  make = protect_archive if archive.is_archive(photos) else work.protect
  _conclude(make(request, answer))


@app.command()
def restore(
  out: options.Published,
  dest: options.Destination,
  key: options.Key = None,
  passphrase: options.Passphrase = False,
) -> None:
  """Restores the original pixels of published pictures, bit for bit.

  Pictures are known by their pixels: they may have other names, and some may be missing.

  \b
  miue-jax restore public originals
  miue-jax restore some-of-them originals --key public.key
  """  # noqa: D301
  from miue_jax.owner import restore as work

  if not work.restore(out, dest, key, options.secret(passphrase)):
    raise typer.Exit(1)


@app.command()
def verify(
  out: options.Out,
  photos: options.Originals = None,
  torch: options.Torch = False,
  weights: options.Weights = None,
  key: options.Key = None,
  passphrase: options.Passphrase = False,
) -> None:
  """Tests what several networks learn from the published files.

  The files are loaded as scrapers load them. For comparison, the networks also learn from the
  originals.

  \b
  miue-jax verify public
  miue-jax verify public --torch
  """  # noqa: D301
  secret = options.secret(passphrase)
  from miue_jax.owner import verify as work

  _conclude(work.verify(out, key, secret, photos, torch, weights))


@app.command()
def audit(
  folder: options.Either,
  all: options.All = False,
  time: options.Time = None,
  threshold: options.Threshold = None,
  photos: options.Originals = None,
  weights: options.Weights = None,
  labels: options.Labels = None,
  clusters: options.Clusters = 0,
  public: options.Public = None,
  key: options.Key = None,
  passphrase: options.Passphrase = False,
) -> None:
  """Tries known attacks on a protected folder, or examines pictures.

  Pictures are examined before they are protected.

  \b
  miue-jax audit public --time 20m     what JPEG, cropping, grayscale and others give back
  miue-jax audit --all runs --time 2h  all protected folders in runs, every month
  miue-jax audit photos                broken files, duplicates, small classes
  miue-jax audit photos --public web   which of them are public already
  miue-jax audit photos --key out.key  which of them this key has protected already
  """  # noqa: D301
  seconds, limit = options.seconds_of(time), _THRESHOLD if threshold is None else threshold
  options.check_clusters(clusters, labels)
  if all and (photos or labels or clusters or key or weights or public):
    raise UserError("--all takes only --time, --threshold and --passphrase: leave the others out.")
  from miue_jax.machine import files
  from miue_jax.owner import private

  if all:
    from miue_jax.owner import audit as work

    if not work.audit_all(folder, options.secret(passphrase), seconds, limit):
      raise typer.Exit(4)
    return
  if not files.exists(private.path_of(folder)):
    if time or threshold is not None or photos or weights:
      raise UserError(
        f"{private.path_of(folder)} is missing, so {folder} is examined as pictures that are not "
        "protected: leave --time, --threshold, --photos and --weights out, or give OUT of a "
        "protection."
      )
    from miue_jax.owner import examine
    from miue_jax.pictures.key import default_path

    if not key and files.exists(default_path(folder)):
      raise UserError(
        f"{private.path_of(folder)} is missing, and {default_path(folder)} says that {folder} is "
        "protected: put it back, next to them."
      )
    secret = options.secret(passphrase)
    examine.examine(folder, labels, key, secret, public, groups=clusters)
    return
  if labels or clusters or public:
    raise UserError(
      "--labels, --clusters and --public are for pictures before protection: leave them out."
    )
  from miue_jax.owner import audit as work

  secret = options.secret(passphrase)
  if not work.audit(folder, key, secret, photos, seconds, limit, weights):
    raise typer.Exit(4)


@app.command()
def plan(
  photos: options.Photos,
  strength: options.Strength = None,
  recompressed: options.Recompressed = False,
  labels: options.Labels = None,
  clusters: options.Clusters = 0,
  watts: options.Watts = 65.0,
  price: options.Price = None,
) -> None:
  """Says how long a protection takes and what it costs.

  \b
  miue-jax plan photos --watts 90 --price 0.30
  """  # noqa: D301
  options.check_clusters(clusters, labels)
  from miue_jax.owner import plan as work

  work.plan(photos, strength, labels, clusters, watts, price, recompressed=recompressed)


def _conclude(found: "Verdict") -> None:
  """Prints a verdict and, if it is "NOT protected", leaves with exit status 4.

  A script that publishes the pictures next then stops.
  """
  from miue_jax.owner import private
  from miue_jax.report import verdict

  terminal.say(private.said(found))
  if found.judgement == verdict.NOT_PROTECTED:
    raise typer.Exit(4)


def _require_terminal() -> None:
  if not sys.stdin.isatty():
    raise UserError("There is no terminal in which to answer questions: add --yes.")


def _ask(question: str) -> None:
  if not typer.confirm(question, default=True):
    terminal.say("Nothing was published.")
    raise typer.Exit(1)


def main() -> None:
  """Runs the program and leaves with an exit status."""
  if not sys.stderr.isatty():
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("miue_jax").setLevel(logging.INFO)
  try:
    terminal.require_stdout()
    surroundings.check()
    sys.exit(app(standalone_mode=False))
  except UserError as error:
    terminal.fail(str(error))
  except typer.TyperException as error:
    terminal.fail(f"{error.format_message()} (--help lists what a command takes)")
  except typer.Abort:
    sys.exit(1)
