"""Tests that a package index shows README, and that what it shows has no broken links."""

import re
import tomllib
import warnings

import pytest
import snippets

import miue_jax

ROOT = snippets.DOCS.parent
README = (ROOT / "README.md").read_text()


def of_the_index(text):
  """Returns README as the metadata of the wheel has it."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  hook = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
  assert hook["fragments"] == [{"path": "README.md"}]
  for change in hook["substitutions"]:
    text = re.sub(change["pattern"], change["replacement"], text)
  return text


@pytest.fixture
def render():
  """Returns the renderer of the Python package index."""
  with warnings.catch_warnings(action="ignore"):  # it warns if it can render no Markdown
    markdown = pytest.importorskip("readme_renderer.markdown")
  if not markdown.variants:
    pytest.skip("readme_renderer[md] is not installed")
  return markdown.render


def test_readme_is_rendered(render):
  page = render(README)
  assert page.count("<table>") == len(re.findall(r"^\|[-:|]+\|$", README, re.M)) == 2
  assert page.count("<pre") == README.count("\n```") // 2 > 0
  assert re.findall(r'<img src="([^"]+)"', page) == ["docs/digits.png"]
  assert "|---" not in page
  assert "```" not in page


def test_an_index_gets_no_broken_link(render):
  text = of_the_index(README)
  page = render(text)
  kept = [link for link in re.findall(r'href="([^"]+)"', page) if not link.startswith("#")]
  assert not [link for link in kept if not re.match("https?://", link)]
  assert "<img" not in page
  assert page.count("<table>") == 2
  assert "](" not in re.sub(r"\]\(https?:", "", text)


def test_an_index_gets_the_names_of_files():
  links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", README)
  text = of_the_index(README)
  assert len(links) > 20
  assert not [link for link in links if f"`{link}`" not in text]
  assert "begin with\nYour folder of pictures (`docs/tutorial-folder.md`)." in text
  assert "pip install -e '.[gpu]'" in text


def test_change_log_and_citation_have_the_version_of_the_package():
  newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
  assert newest in (miue_jax.__version__, "Unreleased")
  assert f"\nversion: {miue_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
