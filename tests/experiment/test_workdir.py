"""The folder of an experiment: its paths, what it stores, and what a refused run leaves."""

import json

import holder
import pytest

from miue_jax.experiment import workdir as workdirs
from miue_jax.machine import processes
from miue_jax.settings.errors import UserError


def refused(workdir, alone=True):
  """Runs something that is refused after it wrote its log."""
  with workdirs.occupied(workdir, alone):
    workdir.log.write_text("held out 3 of 5 images")
    raise UserError("no")


@pytest.mark.parametrize("alone", [True, False])
def test_a_refused_run_leaves_nothing(tmp_path, alone):
  workdir = workdirs.open_workdir(tmp_path / "a" / "b")
  with pytest.raises(UserError, match="no"):
    refused(workdir, alone)
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "a" / "b").mkdir(parents=True)
  (tmp_path / "a" / "b" / "own").write_text("")
  with pytest.raises(UserError, match="no"):
    refused(workdir, alone)
  assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["own"]


def test_a_refused_run_in_a_folder_with_results_keeps_its_log(tmp_path):
  workdir = workdirs.open_workdir(tmp_path)
  workdir.config.write_text("{}")
  with pytest.raises(UserError, match="no"):
    refused(workdir)
  assert workdir.log.exists()


def test_a_signal_is_no_refusal(tmp_path):
  workdir = workdirs.open_workdir(tmp_path / "run")

  def interrupted():
    with workdirs.occupied(workdir, alone=True):
      workdir.log.write_text("")
      raise processes.Interrupted(15)

  with pytest.raises(processes.Interrupted):
    interrupted()
  assert workdir.log.exists()


def test_a_second_program_is_refused_and_a_table_is_shared(tmp_path):
  workdir = workdirs.open_workdir(tmp_path)
  with holder.alone(tmp_path):
    with pytest.raises(UserError, match="in use by another program"):
      refused(workdir)
    with workdirs.occupied(workdir, alone=False):
      pass


def test_leftovers_of_a_killed_program_are_removed(tmp_path):
  for name in (".images-x", ".restored-host-3"):
    (tmp_path / name / "new").mkdir(parents=True)
  (tmp_path / ".config.json.17").write_text("")
  with workdirs.occupied(workdirs.open_workdir(tmp_path), alone=True):
    pass
  assert [path.name for path in tmp_path.iterdir()] == [".locks"]


@pytest.mark.parametrize(
  "path",
  ["gs://bucket/x", "gs:/bucket/x", "~/x", "~somebody/x", b"\xff".decode(errors="surrogateescape")],
)
def test_a_path_that_means_something_else_is_refused(path):
  with pytest.raises(UserError, match="--workdir="):
    workdirs.open_workdir(path)


@pytest.mark.parametrize(
  "content",
  [
    b'{"config": 3, "fingerprint": ""}',
    b'{"config": {}, "fingerprint": 3}',
    b'{"config": {}, "fingerprint": null}',
    b'{"config": {}, "fingerprint": "", "stages": []}',
    b'{"config": {}, "fingerprint": "", "stages": {"generate": 3}}',
  ],
)
def test_a_damaged_config_is_an_error(tmp_path, content):
  workdir = workdirs.open_workdir(tmp_path)
  workdir.config.write_bytes(content)
  with pytest.raises(UserError, match=r"config\.json is damaged"):
    workdirs.open_workdir(tmp_path)


def test_a_file_in_the_way_is_an_error(tmp_path):
  (tmp_path / "run").write_text("not a folder")
  with pytest.raises(UserError, match="a part of the path is a file"):
    workdirs.open_workdir(tmp_path / "run")


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
    workdirs.open_workdir(tmp_path)
