"""Text that leaves the program."""

import logging

import pytest

from miue_jax.machine import terminal
from miue_jax.settings.errors import UserError


def test_only_characters_that_print_and_newlines_stay():
  assert terminal.printable("Zürich ± 8/255\n") == "Zürich ± 8/255\n"
  assert terminal.printable("\x1b[31mred\r\t\x7f") == "\\x1b[31mred\\r\\t\\x7f"
  # C1 control, change of the writing direction, a byte of a file name that is not UTF-8.
  assert terminal.printable("\x9b \u202e \udcff") == "\\x9b \\u202e \\udcff"


def test_log_records_are_printable():
  record = logging.LogRecord("name", logging.INFO, "", 0, "class %s", ("\x1b[1mcat",), None)
  formatter = terminal.Formatter(logging.Formatter("%(message)s"))
  assert formatter.format(record) == "class \\x1b[1mcat"


def test_a_full_disk_is_a_user_error(monkeypatch):
  with open("/dev/full", "w") as full:
    monkeypatch.setattr("sys.stdout", full)
    with pytest.raises(UserError, match="cannot be printed: No space left on device; free"):
      terminal.say("text")


def test_a_closed_stdout_is_a_user_error(monkeypatch):
  monkeypatch.setattr("sys.stdout", None)
  with pytest.raises(UserError, match="standard output is closed"):
    terminal.require_stdout()


def test_a_failure_is_one_line_and_a_status(capsys):
  with pytest.raises(SystemExit) as stop:
    terminal.fail("no file a\nb")
  assert stop.value.code == 2
  assert capsys.readouterr().err == "miue-jax: no file a b\n"
