"""Tests the command line of owners of pictures: help, errors, exit status."""

import io
import re
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from miue_jax import __version__, cli
from miue_jax.owner import options, protect
from miue_jax.report.verdict import NOT_PROTECTED, PARTLY, PROTECTED, UNKNOWN, Verdict
from miue_jax.settings.errors import UserError


def run(*arguments, **options):
  """Runs the program in a process; returns its exit status, stdout and stderr."""
  done = subprocess.run(
    [sys.executable, "-m", "miue_jax", *map(str, arguments)],
    capture_output=True,
    text=True,
    **options,
  )
  return done.returncode, done.stdout, done.stderr


def test_the_bare_program_prints_help_and_loads_no_jax():
  program = (
    "import sys\nfrom miue_jax import cli\ntry: cli.main()\nfinally: print('jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.returncode == 0, done
  assert "protect" in done.stdout
  assert done.stdout.splitlines()[-1] == "False"


def test_every_command_has_help_with_an_example():
  for name in ("protect", "restore", "verify", "audit", "plan"):
    done = CliRunner().invoke(cli.app, [name, "--help"])
    assert done.exit_code == 0
    assert f"miue-jax {name} " in done.output


def test_help_names_arguments_as_the_documentation_does_and_cuts_nothing_off():
  said = CliRunner().invoke(cli.app, ["restore", "--help"]).output
  assert re.search(r"^  OUT .*\n(.*\n)*  DEST ", said, re.MULTILINE)
  assert "..." not in CliRunner().invoke(cli.app, ["--help"]).output.partition("Commands:")[2]


@pytest.mark.parametrize("judgement", [PROTECTED, PARTLY, UNKNOWN, NOT_PROTECTED])
def test_scripts_do_not_go_on_with_unprotected_pictures(judgement, tmp_path, monkeypatch):
  found = Verdict(judgement, "Networks learn.")
  monkeypatch.setattr(protect, "protect", lambda request, ask: found)
  done = CliRunner().invoke(cli.app, ["protect", str(tmp_path), str(tmp_path / "out"), "--yes"])
  assert done.exit_code == (4 if judgement == NOT_PROTECTED else 0)
  assert done.output.lower() == f"{judgement}. Networks learn.\n".lower()


def test_version():
  assert CliRunner().invoke(cli.app, ["--version"]).output == f"miue-jax {__version__}\n"


@pytest.mark.parametrize(
  ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400), (None, None)]
)
def test_times(text, seconds):
  assert options.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "-3m", "0m", "1w", "1 h 3"])
def test_wrong_times_are_one_sentence(text):
  with pytest.raises(UserError, match="is not a time: write 90s"):
    options.seconds_of(text)


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (("protect", "nowhere", "out", "--yes"), "nowhere"),
    (("protect", "nowhere", "out", "--time", "soon"), "--time 'soon' is not a time"),
    (("restore", "nowhere", "dest"), "There is no folder nowhere"),
    (("verify", "nowhere"), "There is no key at"),
    (("audit", "nowhere"), "nowhere"),
    (("protect", "nowhere", "out", "--strength", "huge"), "not one of 'low', 'medium', 'high'"),
    (("protect", "nowhere"), "Missing argument 'OUT'. (--help lists what a command takes)"),
    (("protct",), "Did you mean 'protect'?"),
    (("restore", "--unknown", "out"), "No such option"),
  ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, arguments, said):
  status, out, err = run(*arguments, cwd=tmp_path)
  assert (status, out) == (2, "")
  assert err.startswith("miue-jax: ")
  assert said in err
  assert err.count("\n") == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["gs://bucket/x", "~/x", ""])
@pytest.mark.parametrize(
  "arguments",
  [
    "protect {} out --yes", "protect . {} --yes", "protect . out --key {}",
    "protect . out --labels {}", "restore {} out", "restore . {}", "verify {}",
    "verify . --photos {}", "verify . --weights {}", "audit {}", "audit . --public {}", "plan {}",
  ],
)  # fmt: skip
def test_a_path_that_means_something_else_is_refused(arguments, path):
  done = CliRunner().invoke(cli.app, [word.format(path) for word in arguments.split()])
  assert isinstance(done.exception, UserError)
  assert re.search("is an address|starts with ~|'' is no path", str(done.exception))


@pytest.mark.parametrize("option", ["--watts", "--price"])
def test_endless_watts_and_prices_are_refused_before_the_measurement(tmp_path, option):
  done = CliRunner().invoke(cli.app, ["plan", str(tmp_path), option, "inf"])
  assert str(done.exception) == "inf is not a finite number: correct --watts or --price."


def test_questions_that_nobody_can_answer_are_found_at_once(tmp_path, monkeypatch):
  monkeypatch.delenv("MIUE_JAX_PASSPHRASE", raising=False)
  for arguments, said in (
    (("protect", ".", "out"), "add --yes"),
    (("protect", ".", "out", "--yes", "--passphrase"), "MIUE_JAX_PASSPHRASE"),
    (("protect", ".", "out", "--yes", "--clusters", "1"), "make 2 or more groups"),
    (("protect", ".", "out", "--yes", "--clusters", "2", "--labels", "x"), "leave it or --labels"),
  ):
    status, _, err = run(*arguments, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


def test_a_continuation_asks_nothing_and_needs_no_terminal(tmp_path):
  (tmp_path / "photos").mkdir()
  (tmp_path / "out.key").write_bytes(b"junk")
  status, _, err = run("protect", "photos", "out", cwd=tmp_path, stdin=subprocess.DEVNULL)
  assert status == 2
  assert "out.key is not a key of this version" in err


def test_an_audit_of_all_tells_a_job_by_its_status(tmp_path, monkeypatch):
  from miue_jax.owner import audit

  found = []
  monkeypatch.setattr(audit, "audit_all", lambda *given: found.append(given) or given[3] > 50)
  arguments = ["audit", "--all", str(tmp_path), "--time", "2h", "--threshold"]
  for limit, status in (("60", 0), ("40", 4)):
    assert CliRunner().invoke(cli.app, [*arguments, limit]).exit_code == status
  assert found[0][:4] == (tmp_path, None, 7200, 60)
  done = CliRunner().invoke(cli.app, ["audit", "--all", str(tmp_path), "--key", "k"])
  assert "leave the others out" in str(done.exception)


def test_a_protected_folder_is_not_examined_as_pictures_when_its_private_folder_is_lost(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out.key").touch()
  done = CliRunner().invoke(cli.app, ["audit", str(tmp_path / "out")])
  assert f"{tmp_path / 'out.private'} is missing, and" in str(done.exception)
  assert "put it back, next to them" in str(done.exception)


def test_a_mistaken_option_is_found_quickly():
  began = time.monotonic()
  status, _, err = run("protect", "a", "b", "--strength", "huge")
  assert status == 2
  assert "huge" in err
  assert time.monotonic() - began < 20  # a busy machine; jax alone takes seconds


def test_a_passphrase_without_its_package_is_refused_at_once(monkeypatch):
  monkeypatch.setenv("MIUE_JAX_PASSPHRASE", "secret")
  monkeypatch.setitem(sys.modules, "pyrage", None)
  with pytest.raises(UserError, match=r"needs pyrage: run pip install 'miue-jax\[encrypt\]'"):
    options.secret(True)
  assert options.secret(False) is None


def test_an_empty_passphrase_of_a_new_key_is_refused_before_anything_is_measured(monkeypatch):
  monkeypatch.setenv("MIUE_JAX_PASSPHRASE", "  ")
  with pytest.raises(UserError, match="The passphrase is empty"):
    options.secret(True, new=True)
  assert options.secret(True) == "  "


@pytest.mark.parametrize("new", [True, False])
def test_the_passphrase_of_a_new_key_is_asked_for_twice(new, monkeypatch):
  asked = []
  monkeypatch.delenv("MIUE_JAX_PASSPHRASE", raising=False)
  monkeypatch.setattr("sys.stdin", io.StringIO())
  monkeypatch.setattr("sys.stdin.isatty", lambda: True)
  monkeypatch.setattr(options.typer, "prompt", lambda text, **how: asked.append(how) or "secret")
  assert options.secret(True, new=new) == "secret"
  assert asked == [{"hide_input": True, "confirmation_prompt": new}]
