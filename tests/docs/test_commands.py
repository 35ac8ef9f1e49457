"""Tests that the command lines of all pages are understood; none of them is run."""

import dataclasses
import pathlib
import re
import shlex
import subprocess
import sys
from unittest import mock

import pytest
import snippets
import typer
from absl import flags
from absl.testing import flagsaver

import miue_jax.main  # noqa: F401  # defines the flags
from miue_jax import cli, command_line, defences, methods, models, modes
from miue_jax.owner import options
from miue_jax.settings import config, schema

# ml_collections reads recipes in this way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = snippets.DOCS.parent
PAGES = (
  *(
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
  ),
  *sorted(snippets.DOCS.glob("*.md")),
)
# A shell prints the arguments of these programs instead of running them, and runs no other.
LAUNCHERS = sorted(f"launch/{path.name}" for path in (ROOT / "launch").glob("*.sh"))
PROGRAMS = ("python", "miue-jax", "sbatch", *LAUNCHERS)
SHELL = "\n".join(
  f"{prefix}{name}() {{ printf '%s\\0' {name} \"$@\" $'\\n'; }}"
  for name in PROGRAMS
  for prefix in ("", ".venv/bin/")
)
# Words that stand for something else.
PLACEHOLDERS = {
  "configs/RECIPE.py:METHOD": "configs/digits.py:em",
  "--config.KEY=VALUE": "--config.seed=1",
  "--mode=MODE": "--mode=run",
}


def commands(script, folder):
  """Returns the words of each command of a shell script, without running it."""
  for word, meaning in PLACEHOLDERS.items():
    script = script.replace(word, meaning)
  script = re.sub(" &$", "", script, flags=re.M)  # commands at once would mix what they print
  found = subprocess.run(
    ["/bin/bash", "-c", f"{SHELL}\n{script}"],
    cwd=folder,
    env={"PATH": "", "ME": ""},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert "syntax error" not in found.stderr, found.stderr
  calls = found.stdout.split("\n\0")
  return [call.rstrip("\0").split("\0") for call in calls if call]


def in_prose(text):
  """Returns the commands that a page names in its sentences."""
  text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
  spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
  command = re.compile(r"(\w+=\S+ )*(python -m|miue-jax(?! key 1$)|sbatch|launch/)")
  return [span for span in spans if command.match(span)]


def flags_of(call):
  """Returns the flags of `miue_jax.main` in a call of it or of a launcher, or None."""
  program, *words = call
  if program == "python":
    return words[2:] if words[:2] == ["-m", "miue_jax.main"] else None
  if program in LAUNCHERS and words[:1] != ["run"] and "tpu" in program:
    return None
  if program == "sbatch" and words:
    assert "launch/slurm.sbatch" in words
    words = words[words.index("launch/slurm.sbatch") + 1 :]
  return [word for word in words if word.startswith("--")]


def parse(words, monkeypatch):
  """Parses flags of `miue_jax.main` and makes the settings, as the program does."""
  if "--help" in words:
    return
  argv = ["main", *words]
  monkeypatch.setattr(sys, "argv", argv)
  with (
    flagsaver.flagsaver(),
    mock.patch.dict(methods.METHODS),
    mock.patch.dict(defences.DEFENCES),
    mock.patch.dict(models.MODELS),
  ):
    assert command_line.parse(argv) == ["main"], words
    mode = flags.FLAGS.mode
    modes.check_flags(mode, lambda name: flags.FLAGS[name].present > 0)
    recipe = command_line.recipe()
    for name in (*recipe.evaluate.defences, *recipe.compare.defences):
      defences.build(name)
    for name in (recipe.victim.name, *recipe.compare.victims):
      assert name in models.MODELS, name


def understand(words, in_block):
  """Parses a command line of `miue-jax`; a sentence may leave its arguments out."""
  group = typer.main.get_command(cli.app)
  try:
    context = group.make_context("miue-jax", list(words))
    rest = [*context._protected_args, *context.args]
    if rest and rest[0] != "COMMAND":
      name, command, rest = group.resolve_command(context, rest)
      inner = command.make_context(name, rest, parent=context)
      options.seconds_of(inner.params.get("time"))
  except Exception as error:
    kind = type(error).__name__
    if kind != "Exit" and (in_block or kind != "MissingParameter"):
      raise


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """Returns an empty folder with the recipes that howto-add.md describes."""
  monkeypatch.chdir(tmp_path)
  for name, text in snippets.recipes().items():
    pathlib.Path(name).write_text(text)
  monkeypatch.setattr(sys, "path", [*sys.path])
  return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_understood(page, folder, monkeypatch):
  text = page.read_text()
  fenced = re.findall(r"^```(\S*).*?\n(.*?)^```", text, re.M | re.S)
  blocks = [block for language, block in fenced if language == "bash"]
  for in_block, scripts in ((True, blocks), (False, in_prose(text))):
    for script in scripts:
      for call in commands(script, folder):
        if call[0] == "miue-jax":
          understand(call[1:], in_block)
        elif (words := flags_of(call)) is not None:
          parse(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_program_that_a_page_names_is_there(page):
  text = page.read_text()
  names = set(re.findall(r"(?<![\w/.])(?:launch|configs|benchmarks|tests)/[\w/]+\.\w+", text))
  names |= {f"tests/{name}" for name in re.findall(r"`((?!tests/)\w+/test_\w+\.py)`", text)}
  modules = re.findall(r"(?:-m |`)((?:benchmarks|tests)(?:\.[a-z_]+)+)", text)
  names |= {f"{name.replace('.', '/')}.py" for name in modules}
  invented = {"configs/NAME.py", "configs/RECIPE.py"}
  missing = {name for name in names - invented if not (ROOT / name).is_file()}
  assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_sentence_names_exists(page):
  known = set()
  for kind in methods.settings_of().values():
    known |= schema.flat(dataclasses.asdict(config.Config(method=kind()))).keys()
  named = re.findall(r"`--config\.([\w.]+)=", page.read_text())
  free = ("KEY", "compare.recipes.", "compare.datasets.")
  assert not [name for name in named if name not in known and not name.startswith(free)]


def test_a_wrong_command_line_is_found(folder, monkeypatch):
  call = shlex.split("--config=configs/digits.py --config.method.epsilom=4/255")
  with pytest.raises(Exception, match="epsilom"):
    parse(call, monkeypatch)
  with pytest.raises(Exception, match="stronger"):
    understand(["protect", "photos", "public", "--stronger", "high"], in_block=True)
  with pytest.raises(Exception, match="Missing parameter: out"):
    understand(["protect", "photos"], in_block=True)
  script = (
    'for x in "" :em; do\n  python -m miue_jax.main --config=configs/digits.py$x  # why\ndone'
  )
  found = commands(script, folder)
  recipe = "--config=configs/digits.py"
  assert [call[3:] for call in found] == [[recipe], [f"{recipe}:em"]]
