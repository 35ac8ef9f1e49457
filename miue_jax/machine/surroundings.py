"""Prepares and checks the environment of the program before jax is imported."""

import os
import re
import resource
import sys
import warnings

from miue_jax.settings.errors import UserError

_FILES = 64  # open files that imports and checkpoints need at least
_ADDRESSES = 2 << 30  # bytes of address space that jax needs at least
_COUNTS = ("JAX_NUM_CPU_DEVICES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")


def prepare() -> None:
  """Resets environment variables and warning filters that would change results or stop the program.

  Results are defined in 32 bits, figures are drawn into files, implicit transfers are intended, and
  a warning of a library is not an error.
  """
  for name in ("JAX_ENABLE_X64", *(name for name in os.environ if "JAX_TRANSFER_GUARD" in name)):
    os.environ.pop(name, None)
  os.environ["MPLBACKEND"] = "agg"
  if any(option.startswith("error") for option in sys.warnoptions):
    warnings.simplefilter("default")


def check() -> None:
  """Checks variables and limits that jax answers with an abort, a traceback or a hang.

  Raises:
    UserError: One of them makes the program impossible. All are named.
  """
  problems = [
    f"{name} is {text!r}; set it to a number of at least 1 or unset it"
    for name in _COUNTS
    if (text := os.environ.get(name)) is not None and not re.fullmatch("[1-9][0-9]{0,5}", text)
  ]
  address = os.environ.get("JAX_COORDINATOR_ADDRESS")
  if address is not None and not _is_address(address):
    problems.append(f"JAX_COORDINATOR_ADDRESS is {address!r}; set it to HOST:PORT or unset it")
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if 0 <= soft < _FILES:
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < _FILES:
      problems.append(f"only {hard} files may be open; raise the limit to {_FILES} (ulimit -n)")
  space = resource.getrlimit(resource.RLIMIT_AS)[0]
  if 0 <= space < _ADDRESSES:
    problems.append(
      f"only {space >> 20} MB of addresses are allowed; raise the limit (ulimit -v) to 2 GB or more"
    )
  try:
    os.getcwd()
  except FileNotFoundError:
    problems.append("the current folder was deleted; change to one that exists (cd)")
  if problems:
    raise UserError(f"{'; '.join(problems)}.")


def _is_address(text: str) -> bool:
  found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
  return found is not None and 0 < int(found[2]) < 1 << 16
