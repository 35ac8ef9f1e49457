"""Runs the code of docs/tutorial-folder.md, with tiny networks."""

import pathlib
import shlex

import pytest
import snippets
from typer.testing import CliRunner

from miue_jax import cli
from miue_jax.machine import files
from miue_jax.owner import audit, private


@pytest.mark.slow
def test_the_code_of_the_tutorial_runs(tmp_path, monkeypatch, quick):
  monkeypatch.chdir(tmp_path)
  # From so few pictures networks learn nothing that an attack could give back.
  monkeypatch.setattr(audit, "audit", lambda out, *others: files.exists(private.path_of(out)))
  commands = []
  for language, text in snippets.blocks("tutorial-folder.md"):
    if language == "python":
      exec(compile(text, "tutorial-folder.md", "exec"), {})
      continue
    for line in text.splitlines():
      program, *arguments = shlex.split(line, comments=True)
      assert program == "miue-jax"
      done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
      assert done.exit_code == 0, done.output
      commands.append(arguments[0])
  assert commands == ["audit", "plan", "protect", "verify", "audit", "restore"]
  pictures = sorted(path.relative_to("photos") for path in pathlib.Path("photos").rglob("*.png"))
  assert len(pictures) == 20
  for folder in ("public", "originals"):
    assert sorted(p.relative_to(folder) for p in pathlib.Path(folder).rglob("*.png")) == pictures
  assert pathlib.Path("public.key").is_file()
