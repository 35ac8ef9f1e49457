"""Tests slurm.sbatch: its directives, the call of srun, and when the job is requeued."""

import re

import pytest


@pytest.fixture
def directives(launch):
  """Returns the options that sbatch reads, up to the first line that is no comment."""
  found = {}
  for line in (launch / "slurm.sbatch").read_text().splitlines():
    if line and not line.startswith("#"):
      break
    if line.startswith("#SBATCH "):
      name, _, value = line.removeprefix("#SBATCH --").partition("=")
      found[name] = value
  return found


def test_every_directive_is_read(launch, directives):
  text = (launch / "slurm.sbatch").read_text()
  assert len(directives) == len(re.findall(r"^#SBATCH", text, re.MULTILINE))


def test_one_task_for_each_gpu_and_all_gpus_for_each_task(machine, directives):
  # jax gives the task with SLURM_LOCALID i the i-th visible GPU.
  assert directives["ntasks-per-node"] == directives["gpus-per-node"]
  machine.fake("srun")
  assert submit(machine).returncode == 0
  options = [*directives, *machine.calls("srun")[0].args]
  assert not any("gpus-per-task" in option or "gpu-bind" in option for option in options)


def test_it_can_be_requeued(directives):
  assert directives["requeue"] == ""
  name, seconds = directives["signal"].split("@")  # B:TERM would reach only the script
  assert name == "TERM"
  assert int(seconds) >= 60
  assert directives["open-mode"] == "append"


def submit(machine, *flags, **env):
  slurm = {"SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": "/shared/it's", "SLURM_CPUS_PER_TASK": "8"}
  return machine.run("slurm.sbatch", *flags, **(slurm | env))


def test_it_must_be_submitted(machine):
  machine.fake("srun")
  result = machine.run("slurm.sbatch", "--config=configs/digits.py")
  assert result.returncode == 2
  assert result.stderr == "slurm.sbatch: submit this script: sbatch launch/slurm.sbatch FLAGS...\n"
  assert machine.calls("srun") == []


def test_the_step(machine):
  machine.fake("srun")
  flags = ["--config=configs/cifar10.py", "--workdir=/shared/a b"]
  assert submit(machine, *flags).returncode == 0
  (call,) = machine.calls("srun")
  start = call.args.index("/shared/it's/.venv/bin/python")
  assert call.args[start + 1 :] == [
    "-m",
    "miue_jax.main",
    "--distributed_timeout=300",
    *flags,
  ]
  # The other tasks need time to save after one task ended.
  assert "--kill-on-bad-exit=0" in call.args[:start]
  assert "--wait=300" in call.args[:start]
  assert call.env["SRUN_CPUS_PER_TASK"] == "8"
  assert call.env["JAX_PLATFORMS"] == "cuda,cpu"


def test_variables(machine):
  machine.fake("srun")
  assert submit(machine, PYTHON="/opt/python", WAIT="60", ARRIVE="90").returncode == 0
  (call,) = machine.calls("srun")
  assert {"/opt/python", "--wait=60", "--distributed_timeout=90"} <= set(call.args)


@pytest.mark.parametrize(
  ("status", "state", "requeued"),
  [
    (0, "RUNNING", False),
    (2, "RUNNING", False),  # a mistake of the user would only repeat
    (130, "RUNNING", False),
    (143, "RUNNING", True),  # the time limit is near
    (143, "COMPLETING", False),  # scancel, or a preemption that requeues by itself
    (137, "RUNNING", False),
  ],
)
def test_requeue(machine, status, state, requeued):
  machine.fake("srun", f"sys.exit({status})")
  machine.fake("squeue", f"print({state!r})")
  machine.fake("scontrol")
  assert submit(machine).returncode == status
  calls = machine.calls("scontrol")
  assert [call.args for call in calls] == ([["requeue", "17"]] if requeued else [])
