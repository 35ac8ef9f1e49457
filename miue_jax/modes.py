"""Defines the modes of the program: the function that each value of `--mode` calls."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
from collections.abc import Callable, Generator
from typing import Any

from absl import logging as absl_logging

from miue_jax.settings.errors import UserError

_INCOMPLETE = 1  # exit status

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Call:
  """One call of the program.

  Attributes:
    mode: Value of `--mode`.
    config: Validated settings, a `Config`.
    flags: Values of all flags, as attributes.
    command: The command line, for reports.
  """

  mode: str
  config: Any
  flags: Any
  command: str

  @property
  def output(self) -> pathlib.Path | None:
    """Returns the value of `--output` as a path."""
    return pathlib.Path(self.flags.output) if self.flags.output else None

  @contextlib.contextmanager
  def workdir(self) -> Generator[Any]:
    """Connects the processes of the run and yields the workdir, which is not opened.

    Raises:
      SystemExit: A signal came, and the state is saved.
    """
    # It takes seconds to import jax, which a mistaken flag should not cost.
    from miue_jax.experiment.workdir import Workdir
    from miue_jax.machine import processes, reading
    from miue_jax.settings import schema

    try:
      with processes.together(self.flags.distributed, self.flags.distributed_timeout):
        settings = {"--mode": self.mode} | schema.flat(dataclasses.asdict(self.config))
        code = reading.fingerprint(pathlib.Path(__file__).parent, ".py")
        values = settings | {"the code of miue_jax": code}
        processes.require_same(values, "start all processes with the same flags and code")
        yield Workdir(pathlib.Path(self.flags.workdir or pathlib.Path("runs") / self.config.name))
    except processes.Interrupted as stop:
      sys.exit(128 + stop.signum)

  @contextlib.contextmanager
  def opened(self) -> Generator[Any]:
    """Yields the workdir, in which this program may work, and logs to its file."""
    from miue_jax.experiment.workdir import occupied, open_workdir
    from miue_jax.machine import processes, progress

    # Several programs fill a table, and a report can be written while another program works.
    alone = self.mode not in ("compare", "report")
    with self.workdir() as workdir:
      folder = open_workdir(workdir.root)
      with occupied(folder, alone), progress.logged_to(folder.log):
        try:
          yield folder
        except processes.Interrupted as stop:
          _logger.info("%s: saved in %s; the same command continues.", stop, folder.checkpoints)
          raise

  @contextlib.contextmanager
  def experiment(self) -> Generator[Any]:
    """Yields the experiment, with devices and data."""
    from miue_jax.experiment import stages

    with self.opened() as folder:
      yield stages.start(self.config, folder, self.command, **stages.NEEDS[self.mode])


def run(call: Call) -> str:
  """Makes the poison, trains victims, measures information and writes the report."""
  from miue_jax.experiment import stages

  with call.experiment() as experiment:
    if call.config.compare.methods or call.config.compare.external:
      _logger.info("The recipe describes a table, which --mode=compare fills; this is one poison.")
    stages.generate(experiment)
    stages.evaluate(experiment)
    stages.measure(experiment)
    return _report(experiment)


def generate(call: Call) -> str:
  """Makes the poison alone."""
  from miue_jax.experiment import stages

  with call.experiment() as experiment:
    stages.generate(experiment)
    return ""


def evaluate(call: Call) -> str:
  """Trains the victims of a finished poison."""
  from miue_jax.experiment import stages

  with call.experiment() as experiment:
    stages.evaluate(experiment)
    return ""


def measure(call: Call) -> str:
  """Estimates the mutual information that victims retain, or that of two files of features."""
  from miue_jax import report
  from miue_jax.experiment import measure, stages
  from miue_jax.machine import files

  features, released = call.flags.features, call.flags.released
  if features and released:
    if call.flags.workdir:
      raise UserError("--workdir is not used with --features and --released: leave it out.")
    absl_logging.set_verbosity(absl_logging.WARNING)  # libraries log at INFO, which is not a result
    if call.output:
      files.require_new(call.output)
    found = measure.between_files(features, released, call.config.measure)
    if call.output:
      files.write_json(call.output, found)
    return report.information_table(found)
  if features or released:
    raise UserError("--features and --released belong together: give both.")
  if call.output:
    raise UserError("--output of --mode=measure needs --features and --released: leave it out.")
  with call.experiment() as experiment:
    stages.measure(experiment)
    return ""


def report(call: Call) -> str:
  """Writes the report of the results so far."""
  with call.experiment() as experiment:
    return _report(experiment)


def export(call: Call) -> str:
  """Writes the poisoned images, which are to be published."""
  from miue_jax.experiment import stages

  with call.experiment() as experiment:
    return f"Exported images: {stages.export(experiment, call.output, call.flags.format)}"


def restore(call: Call) -> str:
  """Turns exported images back into the clean ones with the key of the workdir."""
  from miue_jax.experiment import stages
  from miue_jax.machine import processes, terminal

  images = pathlib.Path(call.flags.images) if call.flags.images else None
  with call.workdir() as workdir:
    directory, refused = stages.restore(workdir, images, call.output)
  said = f"Restored images: {directory}"
  if not refused:
    return said
  if processes.is_lead():
    terminal.say(f"{said}; not restored: {terminal.counted(refused, 'file')}.")
  sys.exit(_INCOMPLETE)


def pretrain(call: Call) -> str:
  """Trains a victim on clean images and writes its weights, from which other victims can start."""
  from miue_jax.experiment import stages
  from miue_jax.machine import files

  if call.output:
    files.require_new(call.output)  # before devices and data are opened
  with call.experiment() as experiment:
    path, accuracy = stages.pretrain(experiment, call.output)
    return f"Weights of {accuracy:.1f} % clean test accuracy: {path}"


def compare(call: Call) -> str:
  """Compares methods, victims and defences in one table, as config.compare says."""
  from miue_jax.experiment import compare

  with call.opened() as folder:
    table = compare.run(call.config, folder, call.command)
    return f"{table}\nReport: {folder.report / 'compare.html'}"


def plan(call: Call) -> str:
  """Predicts arithmetic, memory, hours and cost of a run without training anything."""
  from miue_jax.machine import files, progress
  from miue_jax.plan import plan, sizes, text

  progress.show_ours()
  flags = call.flags
  shape = sizes.image_shape(flags.image_shape)
  options = plan.Options(
    flags.chips, flags.price, flags.share, shape, flags.train_images, flags.classes, flags.target
  )
  if call.output:
    files.require_new(call.output)
  made = plan.make(call.config, options)
  if call.output:
    files.write_json(call.output, text.document(made))
  return text.markdown(made)


def _report(experiment: Any) -> str:
  from miue_jax.experiment import stages

  table = stages.write_report(experiment)
  return f"{table}\nReport: {experiment.workdir.report / 'index.html'}"


MODES: dict[str, Callable[[Call], str]] = {
  "run": run,
  "generate": generate,
  "evaluate": evaluate,
  "measure": measure,
  "report": report,
  "export": export,
  "restore": restore,
  "plan": plan,
  "compare": compare,
  "pretrain": pretrain,
}

# The modes that use a flag; all modes accept the flags that are not listed. Launch scripts add
# --workdir and --distributed to every command, and a plan has the command of its run.
USED_BY = {
  "images": ("restore",),
  "output": ("export", "restore", "measure", "pretrain", "plan"),
  "features": ("measure",),
  "released": ("measure",),
  "format": ("export",),
  "chips": ("plan",),
  "target": ("plan",),
  "price": ("plan",),
  "share": ("plan",),
  "image_shape": ("plan",),
  "train_images": ("plan",),
  "classes": ("plan",),
}


def sentences() -> str:
  """Returns what every mode does, for the help of `--mode`."""
  lines = (f"{name}: {(mode.__doc__ or '').strip()}" for name, mode in MODES.items())
  return "\n".join(("Task of the program.", *lines))


def check_flags(mode: str, present: Callable[[str], bool]) -> None:
  """Checks that the mode uses all flags that are present.

  Raises:
    UserError: A flag belongs to other modes.
  """
  for name, modes in USED_BY.items():
    if mode not in modes and present(name):
      *others, last = (f"--mode={user}" for user in modes)
      owners = f"{', '.join(others)} or {last}" if others else last
      raise UserError(f"--{name} belongs to {owners}, and --mode={mode} does not use it.")
