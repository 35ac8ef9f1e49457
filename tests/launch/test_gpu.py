"""Tests gpu.sh: one process, all GPUs, no silent use of the CPU."""

import pytest

LISTING = "print('GPU 0: NVIDIA H200 (UUID: GPU-a)\\nGPU 1: NVIDIA H200 (UUID: GPU-b)')"


def test_one_process_drives_all_gpus(machine):
  machine.fake("nvidia-smi", LISTING)
  machine.fake("python", "sys.exit(7)")
  result = machine.run("gpu.sh", "--config=configs/cifar10.py", "--workdir=a b")
  assert result.returncode == 7
  assert "GPU 1: NVIDIA H200" in result.stderr
  (call,) = machine.calls("python")
  assert call.args[:2] == ["-m", "miue_jax.main"]
  assert call.args[-2:] == ["--config=configs/cifar10.py", "--workdir=a b"]
  assert "--distributed=off" in call.args
  assert call.env["JAX_PLATFORMS"] == "cuda,cpu"
  assert "CUDA_VISIBLE_DEVICES" not in call.env


def test_variables(machine):
  machine.fake("nvidia-smi", LISTING)
  machine.fake("interpreter")
  env = {"PYTHON": "interpreter", "GPUS": "1", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}
  assert machine.run("gpu.sh", **env).returncode == 0
  (call,) = machine.calls("interpreter")
  assert call.env["CUDA_VISIBLE_DEVICES"] == "1"
  assert call.env["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"


@pytest.mark.parametrize("body", ["sys.exit(9)", ""], ids=["no driver", "no GPU"])
def test_without_a_gpu(machine, body):
  machine.fake("nvidia-smi", body)
  machine.fake("python")
  result = machine.run("gpu.sh")
  assert result.returncode == 2
  assert "no GPU" in result.stderr
  assert machine.calls("python") == []
