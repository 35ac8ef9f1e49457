"""Peak memory of a block, compared with an allocation of known size."""

import json
import subprocess
import sys

import numpy as np
import pytest

from miue_jax.machine import memory

SIZE = 200_000_000

pytestmark = pytest.mark.skipif(not memory._CLEAR.exists(), reason="only Linux tells")


def peak(path, size):
  with memory.recorded(path):
    np.ones(size, np.uint8)
  return memory.read(path)


def test_the_peak_of_a_block_is_measured(tmp_path):
  small = peak(tmp_path / "small.json", 1)
  large = peak(tmp_path / "large.json", SIZE)
  after = peak(tmp_path / "after.json", 1)
  assert large - small == pytest.approx(SIZE, rel=0.2)
  assert after - small == pytest.approx(0, abs=0.2 * SIZE)  # an earlier peak does not count


def test_a_process_does_not_count_the_memory_of_the_one_that_started_it():
  program = "from miue_jax.machine import memory; print(memory.peak())"
  command = [sys.executable, "-c", program]
  alone = int(subprocess.check_output(command))
  held = np.ones(4 * SIZE, np.uint8)
  assert memory.peak() > held.size
  assert int(subprocess.check_output(command)) == pytest.approx(alone, rel=0.2)


def test_the_larger_of_two_peaks_is_kept(tmp_path):
  path = tmp_path / "memory.json"
  large = peak(path, SIZE)
  assert peak(path, 1) == large


def test_a_block_that_fails_is_recorded(tmp_path):
  with pytest.raises(RuntimeError), memory.recorded(tmp_path / "memory.json"):
    raise RuntimeError
  assert memory.read(tmp_path / "memory.json") > 0


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"peak_memory_bytes": None})])
def test_a_file_that_cannot_be_read_gives_none(tmp_path, text):
  (tmp_path / "memory.json").write_text(text)
  assert memory.read(tmp_path / "memory.json") is None
  assert memory.read(tmp_path / "absent.json") is None
