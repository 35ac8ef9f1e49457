"""The modes and the flags that belong to some of them."""

import pytest
from absl import flags

from miue_jax import main, modes
from miue_jax.settings.errors import UserError


@pytest.mark.parametrize(
  ("mode", "flag", "owners"),
  [
    ("run", "images", "belongs to --mode=restore, and --mode=run"),
    ("run", "chips", "belongs to --mode=plan, and --mode=run"),
    ("evaluate", "output", "--mode=export, --mode=restore, --mode=measure or --mode=pretrain, and"),
  ],
)
def test_a_flag_that_the_mode_ignores_is_refused(mode, flag, owners):
  with pytest.raises(UserError, match=f"^--{flag} .*{owners}"):
    modes.check_flags(mode, lambda name: name == flag)


def test_every_mode_accepts_its_flags():
  for flag, users in modes.USED_BY.items():
    for mode in users:
      modes.check_flags(mode, lambda name, flag=flag: name == flag)


def test_flags_and_modes_that_belong_together_exist():
  for flag, users in modes.USED_BY.items():
    assert set(users) <= modes.MODES.keys()
    assert flag in flags.FLAGS


def test_the_help_says_what_each_mode_does():
  lines = flags.FLAGS["mode"].help.splitlines()[1:]
  assert [line.partition(":")[0] for line in lines] == list(modes.MODES)
  assert all(line.endswith(".") for line in lines)
  assert main.__doc__.splitlines()[0].endswith("mode.")
