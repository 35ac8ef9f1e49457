"""The folder of an experiment belongs to one config and one dataset."""

import dataclasses
import json

import numpy as np
import pytest

from miue_jax.data.dataset import Dataset, Split
from miue_jax.experiment import workdir as workdirs
from miue_jax.methods import miue
from miue_jax.settings.config import Compare, Config, Evaluate
from miue_jax.settings.errors import UserError

CONFIG = Config(method=miue.Settings(), evaluate=Evaluate(seeds=(0, 1)))


def make_dataset(first_pixel=0, first_label=0):
  images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([first_label, 0, 1, 1], np.int32)
  images[0, 0, 0, 0] = first_pixel
  return Dataset("tiny", Split(images, labels), None, ("a", "b"))


def test_the_same_config_continues(tmp_path):
  first = workdirs.open_workdir(tmp_path / "new" / "run", CONFIG)
  workdirs.bind(first, CONFIG, make_dataset())
  stored = first.config.read_bytes()
  again = workdirs.open_workdir(str(tmp_path / "new" / "run"), CONFIG)
  workdirs.bind(again, CONFIG, make_dataset())
  assert again == first
  assert again.config.read_bytes() == stored


def test_another_config_is_refused_naming_keys_and_values(tmp_path):
  workdirs.bind(workdirs.open_workdir(tmp_path, CONFIG), CONFIG, make_dataset())
  other = dataclasses.replace(
    CONFIG, seed=3, method=miue.Settings(zeta=0.5), evaluate=Evaluate(seeds=(0, 1, 2))
  )
  with pytest.raises(UserError) as error:
    workdirs.open_workdir(tmp_path, other)
  message = str(error.value)
  assert "seed (0 there, 3 here)" in message
  assert "method.zeta (0.1 there, 0.5 here)" in message
  assert "evaluate.seeds ([0, 1] there, [0, 1, 2] here)" in message
  assert "tau" not in message
  workdirs.open_workdir(tmp_path, CONFIG)


def test_a_folder_that_is_older_than_a_key_had_its_default(tmp_path):
  workdir = workdirs.open_workdir(tmp_path, CONFIG)
  workdirs.bind(workdir, CONFIG, make_dataset())
  stored = json.loads(workdir.config.read_text())
  del stored["config"]["evaluate"]["defences"]
  workdir.config.write_text(json.dumps(stored))
  workdirs.open_workdir(tmp_path, CONFIG)
  other = dataclasses.replace(CONFIG, evaluate=Evaluate(seeds=(0, 1), defences=("none", "bits2")))
  with pytest.raises(
    UserError, match=r"evaluate\.defences \(\['none'\] there, \['none', 'bits2'\]"
  ):
    workdirs.open_workdir(tmp_path, other)


def test_a_comparison_may_grow_but_not_change(tmp_path):
  config = dataclasses.replace(CONFIG, compare=Compare(methods=("em",)))
  workdirs.bind(workdirs.open_workdir(tmp_path, config), config, make_dataset())
  recipes = {"ap": {"epochs": 3}}
  larger = Compare(methods=("em", "ap"), recipes=recipes, seeds=(4,), defences=("none", "bits2"))
  workdirs.open_workdir(tmp_path, dataclasses.replace(CONFIG, compare=larger))
  other = dataclasses.replace(CONFIG, compare=Compare(poison_per_seed=True))
  with pytest.raises(UserError, match=r"compare\.poison_per_seed"):
    workdirs.open_workdir(tmp_path, other)


def test_a_folder_is_bound_only_after_its_data_were_read(tmp_path):
  workdirs.open_workdir(tmp_path, CONFIG)
  other = dataclasses.replace(CONFIG, seed=3)
  workdirs.bind(workdirs.open_workdir(tmp_path, other), other, make_dataset())
  with pytest.raises(UserError, match="seed"):
    workdirs.open_workdir(tmp_path, CONFIG)


@pytest.mark.parametrize("change", [{"first_pixel": 1}, {"first_label": 1}])
def test_changed_data_are_refused(tmp_path, change):
  workdir = workdirs.open_workdir(tmp_path, CONFIG)
  workdirs.bind(workdir, CONFIG, make_dataset())
  with pytest.raises(UserError, match="training images of tiny changed"):
    workdirs.bind(workdir, CONFIG, make_dataset(**change))
  workdirs.bind(workdir, CONFIG, make_dataset())


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"{",
    b"[]",
    b"3",
    b"{}",
    b'{"config": 3, "fingerprint": ""}',
    b'{"config": {}, "fingerprint": 3}',
    b'{"config": {}, "fingerprint": null}',
    b'{"config": {"name": "\xff"}, "fingerprint": ""}',
  ],
)
def test_a_damaged_config_is_an_error(tmp_path, content):
  workdir = workdirs.open_workdir(tmp_path, CONFIG)
  workdir.config.write_bytes(content)
  with pytest.raises(UserError, match=r"config\.json is damaged"):
    workdirs.open_workdir(tmp_path, CONFIG)
  with pytest.raises(UserError, match=r"config\.json is damaged"):
    workdirs.bind(workdir, CONFIG, make_dataset())


def test_a_file_in_the_way_is_an_error(tmp_path):
  (tmp_path / "run").write_text("not a folder")
  with pytest.raises(UserError, match="Cannot write"):
    workdirs.open_workdir(tmp_path / "run", CONFIG)


def test_every_path_is_inside_the_root_and_has_another_name(tmp_path):
  workdir = workdirs.Workdir(tmp_path)
  names = [name for name, value in vars(workdirs.Workdir).items() if isinstance(value, property)]
  paths = [getattr(workdir, name) for name in names]
  assert len(set(paths)) == len(paths) > 12
  assert {path.parent for path in paths} == {tmp_path}


def test_the_lead_writes_and_sees_a_file(tmp_path):
  workdir = workdirs.Workdir(tmp_path)
  assert not workdir.exists(workdir.measurement)
  workdir.on_lead(lambda: workdir.measurement.touch())
  assert workdir.exists(workdir.measurement)
  assert not workdir.has_poison()


def test_a_folder_of_the_first_version_is_refused(tmp_path):
  content = {"config": {"model": {"name": "resnet18"}}, "fingerprint": "0"}
  (tmp_path / "config.json").write_text(json.dumps(content))
  with pytest.raises(UserError, match=r"version 0\.1.*--mode=restore"):
    workdirs.open_workdir(tmp_path, CONFIG)
