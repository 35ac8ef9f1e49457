"""The declaration of settings: checks, messages and plain values."""

import dataclasses

import numpy as np
import pytest

from miue_jax.settings import schema
from miue_jax.settings.errors import SettingError, UserError
from miue_jax.settings.schema import Count, Positive, require, settings


@settings
class Inner:
  width: Count = 4


@settings
class Outer:
  rate: Positive = 0.1
  sizes: tuple[int, ...] = ()
  inner: Inner = Inner()

  def __post_init__(self):
    require(len(self.sizes) < 3, "sizes", self.sizes, "short")


def test_settings_are_frozen_and_hashable():
  made = Outer()
  assert hash(made) == hash(Outer())
  with pytest.raises(dataclasses.FrozenInstanceError):
    made.rate = 1.0


def test_a_replaced_value_is_checked_as_well():
  with pytest.raises(SettingError, match=r"Setting rate is -1\.0; it must be greater than 0"):
    dataclasses.replace(Outer(), rate=-1.0)


def test_numpy_scalars_and_lists_become_plain_values():
  made = Outer(rate=np.float32(0.5), sizes=[np.int64(2)])
  assert made == Outer(0.5, (2,))
  assert type(made.rate) is float
  assert type(made.sizes[0]) is int


def test_nested_values_are_made_with_the_whole_name_in_messages():
  assert schema.make(Outer, {"inner": {"width": 8}}) == Outer(inner=Inner(8))
  with pytest.raises(SettingError, match=r"Setting o\.inner\.width is 0; it must be at least 1"):
    schema.make(Outer, {"inner": {"width": 0}}, "o.")
  with pytest.raises(UserError, match=r"Unknown setting o\.inner\.wdth; did you mean o\.inner\.w"):
    schema.make(Outer, {"inner": {"wdth": 0}}, "o.")


def test_an_unknown_keyword_is_a_user_error():
  with pytest.raises(UserError, match="Unknown setting rte; did you mean rate"):
    Outer(rte=1.0)


def test_checks_between_fields_name_the_field():
  with pytest.raises(SettingError, match=r"Setting x\.sizes is \(1, 2, 3\); it must be short"):
    schema.make(Outer, {"sizes": [1, 2, 3]}, "x.")


def test_flat_joins_names_by_dots():
  assert schema.flat({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}
