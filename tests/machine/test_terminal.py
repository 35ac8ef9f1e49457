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


def test_phrases_that_differ_in_their_numbers_become_one_with_ranges():
  window = "window: centre {}, width {}; gray of 16 bits"
  pairs = [(window.format(*ends), str(ends)) for ends in ((-600, 1500), (40, 400), (40.5, "1e+06"))]
  assert terminal.grouped([*pairs, ("one frame", "x"), ("one frame", "y")]) == {
    window.format("-600 to 40.5", "400 to 1e+06"): [name for _, name in pairs],
    "one frame": ["x", "y"],
  }
  assert terminal.grouped(pairs[:1]) == {window.format(-600, 1500): ["(-600, 1500)"]}
  assert terminal.grouped([]) == {}


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
