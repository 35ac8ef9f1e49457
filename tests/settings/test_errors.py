"""Messages of errors: one line, without characters that a terminal would obey."""

from miue_jax.settings import errors


def test_a_message_is_one_line_without_control_characters():
  error = errors.UserError("no file a \r\n\n  b\x1b[31m\x9b\udcff\u202e")
  assert str(error) == "no file a b\\x1b[31m\\x9b\\udcff\\u202e"
  assert errors.escaped("Zürich ± 8/255") == "Zürich ± 8/255"


def test_a_key_inside_a_value_is_refused_without_a_list():
  told = errors.unknown("x", (), "name.")
  assert told == "Unknown setting name.x; name has no settings to change."


def test_all_problems_are_sentences_of_one_message():
  error = errors.SettingError(("a", "is 0; it must be 1."), ("b", "is 2; it must be 3."))
  assert str(error) == "Setting a is 0; it must be 1; setting b is 2; it must be 3."
  assert error.problems == (("a", "is 0; it must be 1."), ("b", "is 2; it must be 3."))
