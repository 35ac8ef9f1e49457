"""Tests the names of defences."""

import doctest

import jax
import pytest

from miue_jax import defences
from miue_jax.defences import DEFENCES, Defence, Family
from miue_jax.settings.errors import UserError


def names():
  """Returns every defence, families with their largest number."""
  return [
    f"{name}{found.numbers[-1]}" if isinstance(found, Family) else name
    for name, found in DEFENCES.items()
  ]


@pytest.mark.parametrize("name", names())
def test_a_defence_has_the_name_by_which_it_was_built(name):
  defence = defences.build(name)
  assert defence.name == name
  # One object, so that the next victim finds the programs that were compiled for it.
  assert defences.build(name) is defence
  hash(defence.hooks)


def test_examples_of_docstrings_run():
  result = doctest.testmod(defences)
  assert result.attempted
  assert not result.failed


def test_none_does_nothing():
  defence = defences.build("none")
  assert defence == Defence("none")
  assert jax.tree.leaves(defence.hooks.augment) == []


@pytest.mark.parametrize("name", [None, 3, b"none", ["none"]])
def test_a_defence_without_a_name(name):
  with pytest.raises(UserError, match="give a name, such as 'jpeg10'"):
    defences.build(name)


@pytest.mark.parametrize(
  "name",
  ["", "grey", "jpeg", "jpeg0", "jpeg96", "jpeg010", "jpeg-1", "10", "none1", "jpeg10\n", "JPEG10"],
)
def test_an_unknown_defence_lists_the_known_ones(name):
  words = (
    r"Unknown defence .*; known: none, .*jpeg1 to jpeg95.*; one that a recipe adds needs --config"
  )
  with pytest.raises(UserError, match=words) as told:
    defences.build(name)
  assert repr(name) in str(told.value)


def test_a_new_defence_is_one_line(monkeypatch):
  monkeypatch.setitem(DEFENCES, "new2", Defence("new2", needs_clean=True))
  monkeypatch.setitem(DEFENCES, "new", Family("new", lambda n: Defence(f"new{n}"), range(3, 5)))
  assert defences.build("new2").needs_clean
  assert defences.build("new4") == Defence("new4")
  with pytest.raises(UserError, match="new3 to new4"):
    defences.build("new5")


def test_a_changed_defence_replaces_the_one_that_was_used(monkeypatch):
  for clean in (False, True):
    monkeypatch.setitem(DEFENCES, "mine", Defence("mine", needs_clean=clean))
    family = Family("ours", lambda n, clean=clean: Defence(f"ours{n}", needs_clean=clean), range(3))
    monkeypatch.setitem(DEFENCES, "ours", family)
    for name in ("mine", "ours2"):
      assert defences.build(name).needs_clean is clean
      assert defences.build(name) is defences.build(name)
