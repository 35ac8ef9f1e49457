"""The modes and the flags that belong to some of them."""

import pathlib
import types

import pytest
from absl import flags

from miue_jax import main, modes
from miue_jax.experiment import stages
from miue_jax.machine import processes, reading
from miue_jax.methods import METHODS
from miue_jax.settings.config import Compare, Config
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(
  ("mode", "flag", "owners"),
  [
    ("run", "images", "belongs to --mode=restore, and --mode=run"),
    ("run", "chips", "belongs to --mode=plan, and --mode=run"),
    ("evaluate", "output", "--mode=measure, --mode=pretrain or --mode=plan, and"),
  ],
)
def test_a_flag_that_the_mode_ignores_is_refused(mode, flag, owners):
  with pytest.raises(UserError, match=f"^--{flag} .*{owners}"):
    modes.check_flags(mode, lambda name: name == flag)


def test_every_mode_accepts_its_flags():
  for flag, users in modes.USED_BY.items():
    for mode in users:
      modes.check_flags(mode, lambda name, flag=flag: name == flag)


def test_flags_and_modes_that_belong_together_exist():
  for flag, users in modes.USED_BY.items():
    assert set(users) <= modes.MODES.keys()
    assert flag in flags.FLAGS


def test_the_help_says_what_each_mode_does():
  lines = flags.FLAGS["mode"].help.splitlines()[1:]
  assert [line.partition(":")[0] for line in lines] == list(modes.MODES)
  assert all(line.endswith(".") for line in lines)
  assert main.__doc__.splitlines()[0].endswith("mode.")


STAGES = ("generate", "evaluate", "measure", "write_report", "export", "restore")


@pytest.fixture
def call(monkeypatch, tmp_path):
  """Returns `call(mode, **flags)`, which runs a mode and returns its text and its stages."""

  def run(mode, refused=0, methods=(), **changes):
    called = []

    def stage(name):
      return lambda *args, **options: called.append(name) or f"result of {name}"

    def start(config, workdir, command, *, need_test=True, **needs):
      called.append("start with test images" if need_test else "start")
      return types.SimpleNamespace(workdir=workdir)

    monkeypatch.setattr(stages, "start", start)
    for name in STAGES:
      monkeypatch.setattr(stages, name, stage(name))
    monkeypatch.setattr(stages, "restore", lambda *_: (called.append("restore") or "DIR", refused))
    values = dict.fromkeys(modes.USED_BY) | {"distributed": "off", "workdir": "run"}
    values |= {"distributed_timeout": 1.0} | changes
    monkeypatch.chdir(tmp_path)
    config = Config(method=METHODS["random"].settings(), compare=Compare(methods=methods))
    made = modes.Call(mode, config, types.SimpleNamespace(**values), "command")
    return modes.MODES[mode](made), called

  return run


@pytest.mark.parametrize(
  ("mode", "expected", "text"),
  [
    (
      "run",
      ["start with test images", "generate", "evaluate", "measure", "write_report"],
      "result of write_report\nReport: run/report/index.html",
    ),
    ("generate", ["start", "generate"], ""),
    ("evaluate", ["start with test images", "evaluate"], ""),
    ("measure", ["start with test images", "measure"], ""),
    (
      "report",
      ["start with test images", "write_report"],
      "result of write_report\nReport: run/report/index.html",
    ),
    ("export", ["start", "export"], "Exported images: result of export"),
    ("restore", ["restore"], "Restored images: DIR"),
  ],
)
def test_a_mode_calls_its_stages(call, tmp_path, mode, expected, text):
  assert call(mode) == (text, expected)
  assert (tmp_path / "run" / "log.txt").exists() == (mode != "restore")


@pytest.mark.parametrize(("methods", "said"), [((), False), (("em",), True)])
def test_a_run_of_the_recipe_of_a_table_says_so(call, caplog, methods, said):
  caplog.set_level("INFO")
  call("run", methods=methods)
  assert ("describes a table, which --mode=compare fills" in caplog.text) == said


def test_a_restore_in_part_is_said_and_ends_with_status_1(call, capsys):
  with pytest.raises(SystemExit) as ending:
    call("restore", refused=3)
  assert ending.value.code == 1
  assert capsys.readouterr().out == "Restored images: DIR; not restored: 3 files.\n"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ({"features": "a.npz"}, "belong together"),
    ({"features": "a.npz", "released": "b.npz"}, "--workdir is not used"),
    ({"output": "x.json"}, "needs --features and --released"),
  ],
)
def test_flags_of_a_measurement_that_do_not_fit_are_refused(call, flags, message):
  with pytest.raises(UserError, match=message):
    call("measure", **flags)


def test_processes_compare_their_code(monkeypatch, tmp_path):
  compared = {}
  monkeypatch.setattr(processes, "require_same", lambda values, _: compared.update(values))
  given = types.SimpleNamespace(distributed="off", distributed_timeout=1, workdir=tmp_path)
  with modes.Call("run", Config(), given, "").workdir():
    pass
  package = pathlib.Path(modes.__file__).parent
  assert compared["the code of miue_jax"] == reading.fingerprint(package, ".py")
