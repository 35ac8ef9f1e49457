"""Writes the parts of the reference that come from the code: settings and command lines.

A page of `docs/` holds a comment such as `<!-- generated: settings -->`, which the site replaces by
what the function of this name returns, in Markdown.
"""

import ast
import dataclasses
import inspect
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any

import pydantic
import pydantic_core
import typer
from absl import flags

from miue_jax import cli, main, methods, modes
from miue_jax.settings import config

_PLACE = re.compile(r"<!-- generated: (\w+) -->")
# Links that lead out of docs/, which the site cannot follow, and pages that say the same.
_LINKS = {
  "../SECURITY.md": "security.md",
  "../CONTRIBUTING.md": "howto-add.md",
  "../benchmarks/README.md": "benchmarks.md",
  "../docs/estimators.md": "estimators.md",
  "../miue_jax/settings/config.py": "settings.md",
}
_SECTIONS = {
  config.Config: "",
  config.Data: "`data.`",
  config.Model: "`victim.` and `method.model.`",
  config.Fit: "`victim_fit.`",
  config.Sgd: "`method.source.`",
  config.Evaluate: "`evaluate.`",
  config.Measure: "`measure.`",
  config.Compare: "`compare.`",
}
_WORDS = {int: "integer", float: "number", str: "text", bool: "True or False", dict: "dict"}
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_REFUSED = (-1, 1, (0, 0))  # one of these is refused by each check that is a function


@dataclasses.dataclass(frozen=True)
class Setting:
  """Describes a setting in words.

  Attributes:
    name: Name of the field.
    kind: Type, or the possible values.
    default: Default, as the code writes it.
    constraint: Constraint of one value; some settings are also checked against each other.
    meaning: Description; empty if the code has none.
  """

  name: str
  kind: str
  default: str
  constraint: str
  meaning: str


def filled(page: str) -> str:
  """Returns the text of a page with its generated parts and with links inside the site."""
  for outside, inside in _LINKS.items():
    page = page.replace(f"]({outside})", f"]({inside})")
  return _PLACE.sub(lambda place: globals()[place[1]](), page)


def settings() -> str:
  """Returns a table for each settings class of the program, then of the methods."""
  parts = []
  for kind, prefix in _SECTIONS.items():
    place = f" These settings start with {prefix}." if prefix else ""
    parts += [f"## {kind.__name__}", _about(kind) + place, _table(kind)]
  made = methods.settings_of()
  shared = dict.fromkeys(base for kind in made.values() for base in reversed(_line(kind)))
  parts += ["## Methods", "These settings start with `method.`, and so do those that are added."]
  for kind in [*(kind for kind in shared if kind not in made.values()), *made.values()]:
    parts += [f"### {_title(kind)}", _about(kind), _table(kind)]
  return "\n\n".join(part for part in parts if part)


def classes() -> list[type]:
  """Returns every settings class that a user can set, with its bases."""
  kinds = [*_SECTIONS, *methods.settings_of().values()]
  return list(dict.fromkeys(base for kind in kinds for base in _line(kind)))


def described(kind: type) -> list[Setting]:
  """Returns the settings that a class declares itself; those of its bases are not repeated."""
  hints = typing.get_type_hints(kind, include_extras=True)
  found = []
  for name, (default, comment) in _declared(kind).items():
    inherited = (_declared(base).get(name, ("", ""))[1] for base in _line(kind))
    meaning = comment or next(filter(None, inherited), "")
    limits = ", ".join(dict(_limits(hints[name])).values())
    found.append(Setting(name, _words(hints[name]), default, limits, meaning))
  return found


def _line(kind: type) -> list[type]:
  return [base for base in kind.__mro__ if dataclasses.is_dataclass(base)]


def _title(kind: type) -> str:
  names = [name for name, made in methods.settings_of().items() if made is kind]
  return names[0] if names else kind.__name__


def _about(kind: type) -> str:
  """Returns the first paragraph of a docstring and the names of the bases."""
  text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
  names = [_title(base) for base in kind.__bases__ if dataclasses.is_dataclass(base)]
  too = (f"It has the settings of [{name}](#{name.lower()}) too." for name in names)
  return " ".join([text, *too])


def _table(kind: type) -> str:
  # A flag cannot change the name of a method.
  own = kind in methods.settings_of().values()
  rows = [row for row in described(kind) if not (own and row.name == "name")]
  if not rows:
    return ""
  lines = ["| setting | type | default | constraint | meaning |", "|---|---|---|---|---|"]
  for row in rows:
    meaning = row.meaning.replace("*", r"\*")
    cells = (f"`{row.name}`", row.kind, f"`{row.default}`", row.constraint, meaning)
    lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
  return "\n".join(lines)


def _declared(kind: type) -> dict[str, tuple[str, str]]:
  """Returns the default and the comment of each field in the source text of a class."""
  source = inspect.getsource(kind)
  comments = {
    token.start[0]: token.string.removeprefix("#").strip()
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  }
  found, end = {}, 0
  (body,) = ast.parse(source).body
  assert isinstance(body, ast.ClassDef)
  for node in body.body:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      assert node.value, f"{node.target.id} has no default"
      lines = range(end + 1, (node.end_lineno or 0) + 1)
      text = " ".join(comments[line] for line in lines if line in comments)
      default = "{}" if "default_factory" in ast.unparse(node.value) else ast.unparse(node.value)
      found[node.target.id] = default.replace("'", '"'), text
    end = node.end_lineno or end
  return found


def _words(hint: Any) -> str:
  """Returns a type in words."""
  origin, inside = typing.get_origin(hint), typing.get_args(hint)
  if origin is typing.Annotated:
    return _words(inside[0])
  if origin is typing.Literal:
    return ", ".join(f'`"{value}"`' for value in inside)
  if origin is tuple:
    return f"tuple of: {_words(inside[0])}"
  if isinstance(hint, types.UnionType):
    return " or ".join(map(_words, inside))
  if dataclasses.is_dataclass(hint):
    return f"[{hint.__name__}](#{hint.__name__.lower()})"
  return _WORDS[hint]


def _limits(hint: Any) -> Iterator[tuple[str, str]]:
  """Yields kind and words of the constraints of a type; a later one of a kind counts."""
  inside = typing.get_args(hint)
  if typing.get_origin(hint) is tuple:
    for kind, words in _limits(inside[0]):
      yield f"each {kind}", f"each {words}"
  if typing.get_origin(hint) is not typing.Annotated:
    return
  yield from _limits(inside[0])
  for note in inside[1:]:
    if isinstance(note, pydantic.AfterValidator):
      yield "check", _refusal(note.func)
    for limit in getattr(note, "metadata", ()):
      if getattr(limit, "min_length", 0):
        yield "length", "not empty"
      for key, words in _LIMITS.items():
        if hasattr(limit, key):
          yield key, f"{words} {getattr(limit, key):,}"


def _refusal(check: Any) -> str:
  """Returns what a check says that a value must be."""
  for value in _REFUSED:
    try:
      check(value)
    except pydantic_core.PydanticCustomError as error:
      return (error.context or {})["allowed"]
    except TypeError:
      continue
  raise ValueError(f"add to _REFUSED a value that {check} refuses")


def commands() -> str:
  """Returns the help of `miue-jax` and of its subcommands."""
  group = typer.main.get_command(cli.app)
  parts = []
  for name, command in {"": group, **vars(group)["commands"]}.items():
    called = f"miue-jax {name}".strip()
    with typer.Context(command, info_name=called, terminal_width=96) as context:
      parts += [f"### `{called}`", f"```text\n{command.get_help(context)}\n```"]
  return "\n\n".join(parts)


def mode_table() -> str:
  """Returns a table of the values of `--mode`."""
  rows = [
    f"| `{name}` | {inspect.cleandoc(mode.__doc__ or '')} |" for name, mode in modes.MODES.items()
  ]
  return "\n".join(["| mode | task |", "|---|---|", *rows])


def flag_table() -> str:
  """Returns a table of the flags of `python -m miue_jax.main`."""
  lines = ["| flag | default | used by | meaning |", "|---|---|---|---|"]
  for flag in flags.FLAGS.get_flags_for_module(main.__name__):
    default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    users = ", ".join(f"`{mode}`" for mode in modes.USED_BY.get(flag.name, ())) or "all modes"
    meaning = re.sub(
      "<(.*)>: ", lambda m: f"{m[1].replace('|', ', ')}. ", flag.help.splitlines()[0]
    )
    shown = "" if default is None else f"`{default}`"
    lines.append(f"| `--{flag.name}` | {shown} | {users} | {meaning} |")
  return "\n".join(lines)
