"""Provides real data, if the machine has it."""

import os
import pathlib

import pytest

DEFAULT_FOLDER = pathlib.Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def real_data():
  """Returns a function from a file's name to its path; the test is skipped where it is absent."""
  folder = pathlib.Path(os.environ.get("MIUE_TEST_DATA", DEFAULT_FOLDER))

  def find(name):
    if not (folder / name).is_file():
      pytest.skip(f"{name} is absent: set MIUE_TEST_DATA to the folder that holds it")
    return folder / name

  return find
