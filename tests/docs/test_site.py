"""Tests that the pages of the site are complete; Sphinx is not needed."""

import inspect
import json
import pathlib
import re
import types

import pytest
import reference

import miue_jax as mj
from miue_jax import cli, main
from miue_jax.artefact import manifest
from miue_jax.experiment import schemas
from miue_jax.owner import private
from miue_jax.pictures import entries
from miue_jax.settings.schema import settings

DOCS = pathlib.Path(reference.__file__).parent
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")])
API = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", (DOCS / "api.md").read_text(), re.M))


def public():
  """Yields the dotted name of every public object, and the object."""
  for name in mj.__all__:
    value = getattr(mj, name)
    yield f"miue_jax.{name}", value
    if isinstance(value, types.ModuleType):
      for inner in value.__all__:
        yield f"miue_jax.{name}.{inner}", getattr(value, inner)


def test_every_public_name_is_on_the_page_of_the_api():
  names = {name for name, _ in public()} - {"miue_jax.__version__"}
  assert names == API


def test_every_public_name_has_a_docstring():
  documented = types.ModuleType | types.FunctionType | type
  missing = [
    name for name, value in public() if isinstance(value, documented) and not inspect.getdoc(value)
  ]
  assert not missing


@pytest.mark.parametrize("kind", reference.classes(), ids=lambda kind: kind.__qualname__)
def test_every_setting_has_a_description(kind):
  assert not [setting.name for setting in reference.described(kind) if not setting.meaning]


@settings
class Undescribed:
  """Settings for a test."""

  described: int = 1  # text
  plain: int = 2


def test_a_setting_without_a_description_is_found():
  first, second = reference.described(Undescribed)
  assert (first.name, first.default, first.meaning) == ("described", "1", "text")
  assert (second.name, second.default, second.meaning) == ("plain", "2", "")


def test_settings_are_described_as_the_code_checks_them():
  rows = {row.name: row for kind in reference.classes() for row in reference.described(kind)}
  assert rows["fraction"].constraint == "above 0, at most 1"
  assert rows["epsilon"].constraint == "in (0, 127/255]"
  assert rows["bootstrap"].constraint.endswith("0 (none) or at least 2")
  assert rows["test_fraction"].constraint == "at least 0, below 1"
  assert rows["width"].constraint == "at least 1, at most 8,192"
  assert rows["stem"].kind == '`"small"`, `"imagenet"`'
  assert rows["zeta"].default == "0.1"
  assert rows["zeta"].meaning.startswith("weight of the distance term")
  # Asterisks are no emphasis.
  assert r'by name or pattern ("BasicBlock_\*", "\*"): features' in reference.settings()


def test_pages_have_their_generated_parts():
  for path in DOCS.glob("*.md"):
    assert "<!-- generated" not in reference.filled(path.read_text()), path
  commands = reference.commands()
  assert all(f"### `miue-jax {name}`" in commands for name in ("protect", "audit", "plan"))
  assert "--keep-metadata" in commands
  assert "| `--price` |  | `plan` |" in reference.flag_table()
  assert "| `pretrain` | Trains a victim on clean images" in reference.mode_table()


def test_the_page_of_command_lines_has_every_exit_status():
  table = re.findall(r"^\| (\d+|128 \+ signal number) \|", (DOCS / "cli.md").read_text(), re.M)
  said = set()
  for module in (cli, main):
    text = " ".join((module.__doc__ or "").partition("Exit status:")[2].split())
    said |= set(re.findall(r"(?:^|; )\s*(\d+(?: \+ signal\s+number)?) ", text))
  assert said == set(table)


def test_the_page_of_files_has_every_key():
  known = set(re.findall(r"`(\w+)`", (DOCS / "files.md").read_text()))
  rows = (schemas.Result, schemas.Curve, private.Audit, private.Tried, private.Proved)
  keys = {key for row in rows for key in row.__annotations__}
  keys |= set(manifest._FIELDS) | {"norm", "budget", "perturbed", "source_rows"}
  keys |= {*entries._CONTENT, "name", "class", "published", "digest", "source"}
  assert not keys - known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
  """Links work on GitHub, and after the replacements of `reference` inside the site."""
  text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
  for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
    assert (DOCS / link).is_file(), link
  for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", reference.filled(text)):
    assert (DOCS / link).is_file(), link
    assert not link.startswith(".."), link


def test_the_index_has_every_page():
  text = (DOCS / "index.md").read_text()
  for path in PAGES:
    if path.name != "index.md":
      assert f"]({path.name})" in text, path
      assert re.search(rf"^{path.stem}$", text, re.M), path


def test_notebooks_have_the_outputs_of_one_run_and_no_paths():
  for path in DOCS.glob("*.ipynb"):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {(out["output_type"], out.get("name")) for cell in code for out in cell["outputs"]}
    assert kinds <= {("execute_result", None), ("stream", "stdout")}
    assert not re.search(r"/(home|root|tmp|work|usr)/", path.read_text())
