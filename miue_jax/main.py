"""Protects images and tests the protection: flags -> config -> mode.

Run it by `python -m miue_jax.main`. Without flags it protects scikit-learn's digits, and tests it.
Examples of flags:
  --config=configs/folder.py --config.data.path=PICTURES --workdir=runs/mine
  --config=configs/folder.py --config.data.path=PICTURES --workdir=runs/mine --mode=export
  --workdir=runs/mine --mode=restore --images=PUBLISHED --output=CLEAN
  --config=configs/cifar10.py:em --config.method.epsilon=4/255 --mode=plan --chips=8

Exit status: 0 done; 1 some files were not restored; 2 a mistake that the user can correct; 3
another process died or cannot be reached; 128 + signal number after SIGINT, SIGTERM or SIGHUP.
After 3 and after signals the same command continues.
"""

from miue_jax.machine import exits, surroundings

if __name__ == "__main__":
  exits.catch()  # before the imports below, which take a second
  surroundings.prepare()

import shlex
import sys

from absl import flags
from ml_collections import config_flags

from miue_jax import command_line, modes
from miue_jax.machine import terminal

_LONGEST_WAIT = 604800  # a week, in seconds

# `command_line.parse` supplies the default: here it would be loaded, and overridden, on import.
config_flags.DEFINE_config_file(
  "config",
  None,
  f"Recipe, with a variant or method if wanted: configs/cifar10.py:em (default: "
  f"{command_line.DEFAULT_CONFIG}). --config.KEY=VALUE changes one of its settings.",
)
flags.DEFINE_string("workdir", None, "Folder of the experiment (default: runs/NAME).")
_MODE = flags.DEFINE_enum("mode", "run", list(modes.MODES), modes.sentences())
flags.DEFINE_string(
  "images", None, "Folder of exported images to restore (default: WORKDIR/images)."
)
flags.DEFINE_string(
  "output",
  None,
  "New folder of an export (default: WORKDIR/images) or of restored images (default: "
  "WORKDIR/restored), new JSON file of a plan or of a measurement of --features, or new .npz file "
  "of pretrained weights (default: WORKDIR/pretrained.npz).",
)
flags.DEFINE_string(
  "features",
  None,
  "Features of clean images by any model, FILE.npz or FILE.npz:ARRAY [samples, d]; measures these "
  "and --released instead of the victims of a workdir.",
)
flags.DEFINE_string("released", None, "Features of the released images, in the same order.")
flags.DEFINE_multi_enum(
  "format", ["png"], ["png", "npz"], "Format of an export; give it twice for both"
)
flags.DEFINE_integer("chips", 1, "Number of chips of a plan.")
flags.DEFINE_string(
  "target",
  None,
  "Chips of a plan, such as v5e:8x8, v5p:4x4x4 or h200:8; compiles for them where the extra tpu or "
  "gpu is installed.",
)
flags.DEFINE_float("price", None, "Price of one chip for one hour; adds the cost to the plan.")
flags.DEFINE_float("share", 0.4, "Share of the peak of a chip that a plan assumes.")
flags.DEFINE_list(
  "image_shape",
  None,
  "Height,width,channels of the images of a plan; with --train_images and --classes no data are "
  "read.",
)
flags.DEFINE_integer("train_images", 0, "Number of training images of a plan.")
flags.DEFINE_integer("classes", 0, "Number of classes of a plan.")
flags.DEFINE_enum(
  "distributed",
  "auto",
  ["auto", "on", "off"],
  "Connects with the other processes of this run: auto does so if a launcher announces several.",
)
flags.DEFINE_float("distributed_timeout", 60.0, "Seconds until all processes must have started.")
flags.register_validator(  # a bound of absl would let NaN pass
  "distributed_timeout",
  lambda seconds: 1 <= seconds <= _LONGEST_WAIT,
  f"it must be a number of seconds from 1 to {_LONGEST_WAIT}",
)


def main() -> None:
  """Runs one mode and prints its result, on the lead process.

  Raises:
    UserError: A mistake that the user can correct.
    SystemExit: The exit status is not 0; the module's docstring lists them.
  """
  surroundings.check()
  mode = _MODE.value
  modes.check_flags(mode, lambda name: flags.FLAGS[name].present > 0)
  command = shlex.join(["python", "-m", "miue_jax.main", *sys.argv[1:]])
  call = modes.Call(mode, command_line.recipe(), flags.FLAGS, command)
  text = modes.MODES[mode](call)
  from miue_jax.machine import processes  # it imports jax, which a mistaken flag should not cost

  if text and processes.is_lead():
    terminal.say(text)


def console() -> None:
  """Runs the program."""
  exits.catch()
  surroundings.prepare()
  command_line.run(main, __doc__ or "")


if __name__ == "__main__":
  console()
