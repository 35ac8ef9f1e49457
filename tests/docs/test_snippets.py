"""Runs the code of pages and notebooks as a reader does, in an empty folder, at toy size."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import snippets
from program import TINY

# tests/owner/test_folder_tutorial.py runs tutorial-folder.md.
PAGES = ("files.md", "howto-add.md", "tutorial-digits.md", "tutorial-features.md")
NEW = {"api.md", "cli.md", "faq.md", "index.md", "settings.md", *PAGES}


def toy(line):
  """Returns a command at toy size; one that continues a workdir takes its settings from there."""
  if "miue_jax.main" not in line or "--mode" in line:
    return line
  flags = [flag for flag in TINY[1:] if ":lsp" not in line or ".method." not in flag]
  return f"{line} {shlex.join(flags)}"


@pytest.mark.slow
@pytest.mark.parametrize(
  "page",
  [
    # CI runs its first command with a check of the result.
    pytest.param(page, marks=pytest.mark.long if page == "tutorial-digits.md" else ())
    for page in PAGES
  ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
  names = {}
  for name, text in snippets.recipes().items() if page == "howto-add.md" else ():
    pathlib.Path(name).write_text(text)
  for language, text in snippets.blocks(page):
    if language == "python" and page != "howto-add.md":
      exec(compile(text, page, "exec"), names)
    elif language == "bash":
      script = "\n".join(map(toy, text.splitlines()))
      subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True)
  if page == "tutorial-digits.md":
    assert pathlib.Path("runs/digits/report/index.html").is_file()
    assert any(pathlib.Path("runs/digits/restored/train").rglob("*.png"))
  if page == "howto-add.md":
    assert any(pathlib.Path("runs/mine/images/train").rglob("*.png"))
    assert pathlib.Path("runs/theirs/results.jsonl").read_text().count('"fade"') == 3
    alone = [sys.executable, "-m", "miue_jax.main", "--workdir=runs/mine", "--mode=export"]
    refused = subprocess.run(alone, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "Setting method.name is 'toy'" in refused.stderr
    assert "the recipe of --config adds: give that recipe." in refused.stderr
  if page == "tutorial-features.md":
    assert pathlib.Path("mi.json").is_file()


def test_no_page_with_code_is_left_out():
  assert {page for page in NEW if snippets.blocks(page)} == set(PAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter are not ours
def test_the_notebook_runs(tmp_path):
  nbclient, nbformat = map(pytest.importorskip, ("nbclient", "nbformat"))
  notebook = nbformat.read(snippets.DOCS / "tutorial-arrays.ipynb", 4)
  place = {"metadata": {"path": str(tmp_path)}}
  nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
