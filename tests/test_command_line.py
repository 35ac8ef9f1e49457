"""Command lines that become flags and settings."""

import ml_collections
import pytest

from miue_jax import command_line
from miue_jax.settings.errors import UserError

RECIPE = ml_collections.ConfigDict({"name": "a/b", "method": {"epsilon": 0.1, "steps": 3}})


def with_numbers(*flags):
  return command_line._with_numbers(["program", "--config=x.py", *flags], RECIPE)[2:]


@pytest.mark.parametrize(
  ("typed", "value"),
  [("8/255", 8 / 255), ("1.6 / 255", 1.6 / 255), ("-1/.5", -2.0), ("1e-1/2", 0.05)],
)
def test_fractions_become_numbers_where_a_float_is_expected(typed, value):
  assert with_numbers(f"--config.method.epsilon={typed}") == [f"--config.method.epsilon={value!r}"]
  assert with_numbers("-config.method.epsilon", typed) == ["-config.method.epsilon", repr(value)]


def test_other_values_stay_as_they_are():
  flags = ["--config.name=1/2", "--config.method.steps=4/2", "--config.method.epsilon=1/2/3"]
  assert with_numbers(*flags, "--workdir=8/255") == [*flags, "--workdir=8/255"]


def test_a_fraction_over_zero_is_refused():
  with pytest.raises(UserError, match=r"Setting method\.epsilon is 8/0; it must not be divided"):
    with_numbers("--config.method.epsilon=8/0")


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("return 3", "returns int; it must return an ml_collections.ConfigDict"),
    ("return None", "returns NoneType"),
    ("raise BaseException('stop\\nhere')", r"\(BaseException: stop\): correct it"),
    ("raise SystemExit(1)", r"\(SystemExit: 1\)"),
    ("raise KeyboardInterrupt", r"\(KeyboardInterrupt: KeyboardInterrupt\)"),
    ("raise ValueError('no variant x')", r"recipe\.py: no variant x\.$"),
    ("return {}['key']", r"\(KeyError: 'key'\)"),
  ],
)
def test_a_recipe_that_makes_no_settings_is_one_sentence(tmp_path, body, message):
  path = tmp_path / "recipe.py"
  path.write_text(f"def get_config():\n  {body}\n")
  with pytest.raises(UserError, match=message):
    command_line._settings(["program", f"--config={path}"])


@pytest.mark.parametrize(
  ("absl", "plain"),
  [
    (
      "flag --chips=1e9: invalid literal for int() with base 10: '1e9'",
      "Flag --chips=1e9: it must be a whole number.",
    ),
    (
      "flag --price=a: could not convert string to float: 'a'",
      "Flag --price=a: it must be a number.",
    ),
    (
      "flag --config.method.secret=yes: ('Non-boolean argument to boolean flag', 'yes')",
      "Flag --config.method.secret=yes: it must be True or False.",
    ),
    (
      "flag --mode=fly: value should be one of <run|plan>",
      "Flag --mode=fly: it must be one of run, plan.",
    ),
    (
      "flag --config.victim=linear: Failed to parse 'linear' as a ConfigDict: ValueError("
      "'malformed node or string on line 1: <ast.Name object at 0x7fdcb8af80d0>').",
      "Flag --config.victim=linear: it is a group of settings: set each of them, as "
      "--config.GROUP.KEY=VALUE does.",
    ),
  ],
)
def test_messages_of_absl_do_not_mention_python(absl, plain):
  assert command_line._plain(absl) == plain


def test_a_recipe_without_get_config_is_named(tmp_path):
  path = tmp_path / "recipe.py"
  path.write_text("")
  with pytest.raises(UserError, match=r"recipe\.py is wrong \(KeyError: 'get_config'\)"):
    command_line._settings(["program", f"--config={path}"])


def test_a_variant_of_a_recipe_without_variants_is_refused(tmp_path):
  path = tmp_path / "table.py"
  path.write_text("def get_config(): ...")
  with pytest.raises(UserError, match=r"table\.py takes no method or variant: leave :em out"):
    command_line._settings(["program", f"--config={path}:em"])
