"""Tests the public names of `miue_jax.transforms`."""

import doctest
import inspect

import pytest

from miue_jax import transforms
from miue_jax.transforms import adversaries, mixing


@pytest.mark.parametrize("module", [transforms, adversaries, mixing])
def test_examples_of_docstrings_run(module):
  result = doctest.testmod(module)
  assert result.attempted
  assert not result.failed


def test_every_public_function_is_documented():
  public = [getattr(transforms, name) for name in transforms.__all__]
  functions = [each for each in public if inspect.isfunction(each)]
  assert len(functions) >= 12
  for function in functions:
    assert inspect.getdoc(function).split("\n")[0].endswith("."), function
