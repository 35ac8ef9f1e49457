"""Declares the arguments and options of the command line; it imports nothing that takes long."""

import math
import os
import pathlib
import re
import sys
from typing import Annotated, Literal

import typer

from miue_jax.machine import reading
from miue_jax.pictures import cipher
from miue_jax.settings.errors import UserError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _finite(value: float | None) -> float | None:
  if value is not None and not math.isfinite(value):
    raise UserError(f"{value} is not a finite number: correct --watts or --price.")
  return value


def _local(text: str) -> pathlib.Path:
  reading.require_local(text, text or "''")
  return pathlib.Path(text)


Photos = Annotated[
  pathlib.Path,
  typer.Argument(
    metavar="PHOTOS", parser=_local, help="Pictures, in a folder for each class; or an .npz file."
  ),
]
Out = Annotated[
  pathlib.Path,
  typer.Argument(metavar="OUT", parser=_local, help="Folder of the published pictures."),
]
Published = Annotated[
  pathlib.Path,
  typer.Argument(
    metavar="OUT", parser=_local, help="Folder of published pictures, or a published archive."
  ),
]
Destination = Annotated[
  pathlib.Path,
  typer.Argument(metavar="DEST", parser=_local, help="Folder of the restored originals."),
]
Either = Annotated[
  pathlib.Path,
  typer.Argument(
    metavar="FOLDER",
    parser=_local,
    help="Protected folder (OUT), pictures before protection (PHOTOS), or, with --all, a folder of "
    "protected folders (RUNS).",
  ),
]

Version = Annotated[bool, typer.Option("--version", help="Print the version.")]
Strength = Annotated[
  Literal["low", "medium", "high"] | None,
  typer.Option(help="Largest change of a pixel: 4, 8 or 16 of 255; medium if left out."),
]
Recompressed = Annotated[
  bool,
  typer.Option(
    "--recompressed",
    help="For pictures in colour of at most 32 pixels that a site compresses.",
  ),
]
Time = Annotated[str | None, typer.Option(metavar="30m", help="Time that the work may take.")]
Format = Annotated[
  Literal["png", "webp", "jpeg"],
  typer.Option(
    help="Format of the published files. JPEG rounds, and so changes more than --strength says."
  ),
]
Labels = Annotated[
  pathlib.Path | None,
  typer.Option(parser=_local, help="CSV file with the columns file and class."),
]
Clusters = Annotated[
  int,
  typer.Option(metavar="K", help="Sort pictures without labels into K groups of similar ones."),
]
Key = Annotated[
  pathlib.Path | None, typer.Option(parser=_local, help="The key; OUT.key if left out.")
]
Passphrase = Annotated[
  bool,
  typer.Option(
    "--passphrase",
    help="Ask for the passphrase of the key; or take it from MIUE_JAX_PASSPHRASE.",
  ),
]
KeepMetadata = Annotated[
  bool, typer.Option("--keep-metadata", help="Keep places, times and cameras in the files.")
]
DropAuthor = Annotated[
  bool, typer.Option("--drop-author", help="Leave author and copyright out of the files.")
]
Shareable = Annotated[
  bool, typer.Option("--shareable", help="Write a page without pictures and names as well.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at a file that cannot be read.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask no questions.")]
Seed = Annotated[
  int | None,
  typer.Option(min=0, max=2**32 - 1, help="Seed of a repeatable run; drawn if left out."),
]
Originals = Annotated[
  pathlib.Path | None,
  typer.Option("--photos", parser=_local, help="Folder of the originals, if it was moved."),
]
Torch = Annotated[
  bool, typer.Option("--torch", help="Train a network in PyTorch as well (extra torch).")
]
Weights = Annotated[
  pathlib.Path | None,
  typer.Option(
    metavar="FILE.npz",
    parser=_local,
    help="Also train networks that start from weights by miue_jax.main --mode=pretrain.",
  ),
]
Public = Annotated[
  pathlib.Path | None,
  typer.Option(
    metavar="FOLDER",
    parser=_local,
    help="Before protection: name the pictures that are also in this folder.",
  ),
]
Threshold = Annotated[
  float | None,
  typer.Option(
    min=0,
    max=100,
    help="Percent of what the originals teach that an attack may give back before the exit status "
    "is 4; 75 if left out.",
  ),
]
All = Annotated[
  bool,
  typer.Option("--all", help="Audit every protected folder in RUNS, also in folders below it."),
]
Watts = Annotated[
  float, typer.Option(min=0, callback=_finite, help="Power of this machine in watts.")
]
Price = Annotated[
  float | None,
  typer.Option(
    min=0, callback=_finite, help="Price of a kilowatt-hour in any currency; adds the cost."
  ),
]


def check_clusters(clusters: int, labels: pathlib.Path | None) -> None:
  """Checks the number of groups.

  Raises:
    UserError: It makes no groups, or the pictures have labels.
  """
  if clusters == 1 or clusters < 0:
    raise UserError(f"--clusters {clusters}: make 2 or more groups.")
  if clusters and labels:
    raise UserError("--clusters is for pictures without labels: leave it or --labels out.")


def seconds_of(text: str | None) -> float | None:
  """Returns the seconds of a time such as "30m", or None.

  Raises:
    UserError: The text is not a time.
  """
  if text is None:
    return None
  found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
  if not found or not float(found[1]):
    raise UserError(f"--time {text!r} is not a time: write 90s, 30m, 2h or 1d.")
  return float(found[1]) * _UNITS[found[2]]


def secret(wanted: bool, *, new: bool = False) -> str | None:
  """Asks for a passphrase; MIUE_JAX_PASSPHRASE in the environment answers for programs.

  Args:
    wanted: Whether there is a passphrase.
    new: Whether it is for a new key; it is then asked for twice, because a typing error would lose
      the originals.

  Raises:
    UserError: It is not in the environment, and there is no terminal to ask on; a new one is
      empty; or the package that encrypts is missing.
  """
  if not wanted:
    return None
  found = os.environ.get("MIUE_JAX_PASSPHRASE")
  if not found and not sys.stdin.isatty():
    raise UserError("There is no terminal to type a passphrase in: set MIUE_JAX_PASSPHRASE to it.")
  cipher.required()  # before anything is typed or measured
  found = found or typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new)
  if new:
    cipher.check(found)
  return found
