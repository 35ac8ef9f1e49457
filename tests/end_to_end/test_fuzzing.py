"""Fuzzing: whatever a file holds, a reader gives its content or a `UserError` of one line.

`MIUE_FUZZ_INPUTS` sets the number of inputs of the long run.
"""

import json
import os

import hostile
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from readers import BY_NAME, CELL, MEASUREMENT, READERS, RESULT, sound

from miue_jax import report
from miue_jax.experiment import explain, schemas
from miue_jax.experiment.results import Rows
from miue_jax.machine import archives, documents

INPUTS = int(os.environ.get("MIUE_FUZZ_INPUTS", "3000"))
SHORT = pytest.param(8, id="short")
LONG = pytest.param(INPUTS // (len(READERS) + 8), id="long", marks=pytest.mark.slow)
NAMES = [reader.name for reader in READERS]
DOCUMENTS = [reader.name for reader in READERS if reader.document]


@pytest.mark.parametrize("count", [SHORT, LONG])
@pytest.mark.parametrize("name", NAMES)
def test_changed_bytes(name, count, tmp_path):
  path = sound(BY_NAME[name], tmp_path)
  content = path.read_bytes()
  for seed in range(count):
    path.write_bytes(hostile.mutated(np.random.default_rng([seed, len(name)]), content))
    hostile.attempt(BY_NAME[name].read, path)


@pytest.mark.parametrize("count", [SHORT, LONG])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_changed_values(name, count, tmp_path):
  path = sound(BY_NAME[name], tmp_path)
  for seed in range(count):
    changed = hostile.bent(np.random.default_rng([seed, len(name)]), BY_NAME[name].document)
    path.write_text(json.dumps(changed) + "\n")
    hostile.attempt(BY_NAME[name].read, path)


_KEYS = sorted({*RESULT, *MEASUREMENT, *MEASUREMENT["rows"][0], *MEASUREMENT["theory"][0]})
_VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=3), inner, max_size=4)
  ),
  max_leaves=12,
)


@pytest.mark.slow
@pytest.mark.parametrize("name", DOCUMENTS)
@hypothesis.given(values=st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=6))
@hypothesis.settings(
  max_examples=20, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_values(name, tmp_path, values):
  path = tmp_path / BY_NAME[name].name
  if not path.exists():
    sound(BY_NAME[name], tmp_path)
  path.write_text(json.dumps(BY_NAME[name].document | values) + "\n")
  hostile.attempt(BY_NAME[name].read, path)


_DESCRIBED = st.builds(
  hostile.described,
  st.text("(),-0123456789ae'\"[]TrueFals ", max_size=20)
  | st.lists(st.integers(-2, 2**64), max_size=5).map(lambda shape: str(tuple(shape))),
  st.sampled_from(["'|u1'", "'<f4'", "'<U1'", "'|b1'", "'>i8'", "'|V3'", "'|O'", "'<M8[s]'"])
  | st.text("'<>|=uifSUVMmO0123456789[](), ", max_size=8),
  st.sampled_from(["True", "False", "0", "None"]),
)


@hypothesis.given(
  start=_DESCRIBED | st.binary(max_size=40).map(hostile.header), rest=st.binary(max_size=20)
)
@hypothesis.settings(
  max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_header_of_an_array(tmp_path, start, rest):
  (tmp_path / "x.npy").write_bytes(start + rest)
  hostile.attempt(archives.read_npy, tmp_path / "x.npy", "copy it again")


def _experiment(folder):
  """Makes the report of an experiment from its rows and measurement."""
  measurement = documents.read_json(folder / "measurement.json", schema=schemas.Measurement)
  rows = Rows(folder / "results.jsonl").read()
  report.table(rows)
  return report.Experiment(rows, {}, "", measurement=measurement).files


def _comparison(folder):
  """Makes the report of a table from its rows and measurements."""
  axes = report.Axes("tiny", ("clean", "miue"), ("small_cnn",), {"none": (0,)})
  rows = Rows(folder / "results.jsonl").read()
  measurements = Rows(folder / "measurements.jsonl", schemas.Measured).read()
  lost = Rows(folder / "lost.jsonl", schemas.Loss).read()
  explanations = explain.by_victim(axes, rows, measurements)
  found = report.Results(axes, rows, lost, measurements, explanations)
  return report.Comparison([found], {}, "").files


@pytest.mark.parametrize("count", [SHORT, LONG])
@pytest.mark.parametrize("build", [_experiment, _comparison])
def test_reports_of_changed_values(build, count, tmp_path, monkeypatch):
  """Drawings take seconds, so one in fifty reports is drawn; the others stop before that."""
  from miue_jax.report import figures

  draw = figures.line_charts
  clean = CELL | {"method": "clean"}
  documents_of = {
    "results.jsonl": [RESULT, RESULT | clean],
    "measurements.jsonl": [CELL | MEASUREMENT, MEASUREMENT | clean],
    "lost.jsonl": [CELL | {"reason": "full"}],
    "measurement.json": [MEASUREMENT],
  }
  accepted = 0
  for seed in range(2 * count):
    rng = np.random.default_rng(seed)
    for name, rows in documents_of.items():
      changed = hostile.bent(rng, rows) if rng.integers(0, 2) else rows
      (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in changed))
    full = seed % 50 == 9
    monkeypatch.setattr(figures, "line_charts", draw if full else lambda charts, **_: None)
    accepted += hostile.attempt(build, tmp_path)
  assert accepted
