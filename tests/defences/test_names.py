"""Defences by their names."""

import jax
import pytest

from miue_jax import defences
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(
  "name", [*defences.PLAIN, *(k + str(n[-1]) for k, (_, n) in defences.NUMBERED.items())]
)
def test_a_defence_has_the_name_by_which_it_was_asked_for(name):
  defence = defences.build(name)
  assert defence.name == name
  # What is compiled for it is found again by the next victim.
  assert defences.build(name) is defence
  hash(defence.hooks)


def test_none_does_nothing():
  defence = defences.build("none")
  assert defence == type(defence)("none")
  assert jax.tree.leaves(defence.hooks.augment) == []


@pytest.mark.parametrize(
  "name",
  ["", "grey", "jpeg", "jpeg0", "jpeg96", "jpeg010", "jpeg-1", "10", "none1", "jpeg10\n", "JPEG10"],
)
def test_an_unknown_defence_lists_the_known_ones(name):
  with pytest.raises(
    UserError, match=r"Unknown defence .*; known: none, .*jpeg1 to jpeg95"
  ) as told:
    defences.build(name)
  assert repr(name) in str(told.value)
