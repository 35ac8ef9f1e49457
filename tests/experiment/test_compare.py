"""The order of cells, the poison of each, and the consequences of a failure."""

import dataclasses
import json
from unittest import mock

import holder
import jax
import numpy as np
import pytest

from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.experiment import compare, measure, poisons, results, stages, victims
from miue_jax.experiment.results import Rows
from miue_jax.experiment.table import Cell, Table
from miue_jax.experiment.workdir import Experiment, Workdir
from miue_jax.machine.processes import Interrupted
from miue_jax.report import figures
from miue_jax.settings.config import Compare, Config, Fit
from miue_jax.settings.errors import UserError

COMPARE = Compare(
  shared={"batch_size": 4, "source": {"batch_size": 4}},
  methods=("a", "b"),
  recipes={"a": {"name": "random"}, "b": {"name": "random"}},
  victims=("linear", "mlp2"),
  defences=("none", "bits2"),
  seeds=(0, 1),
  defended_seeds=(1,),
)
CELLS = compare.axes(Config(compare=COMPARE, victim_fit=Fit(batch_size=4))).cells()

MI = {"clean": 2.0, "a": 1.25, "b": 1.5}


@pytest.fixture
def experiment(tmp_path):
  rng = np.random.default_rng(0)
  split = Split(rng.integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 2)
  dataset = Dataset("d", split, split, ("x", "y"))
  return Experiment(
    Config(compare=COMPARE, victim_fit=Fit(batch_size=4)), Workdir(tmp_path), dataset
  )


def filled(path):
  """Returns the cells of a file of rows."""
  return [Cell(*(row[key] for key in Cell._fields)) for row in Rows(path).read()]


@pytest.fixture
def comparison(experiment, monkeypatch, use_devices):
  """Returns `comparison(fails, poisons_fail, measuring_fails)`, which runs without training.

  The arguments say with which exception a cell, the poison of a method or the measurement of a
  method fails. It returns the trained cells, the poisons made and the table.
  """
  use_devices(1)

  def run(
    fails=lambda cell: None,
    poisons_fail=lambda name: None,
    measuring_fails=lambda name: None,
    settings=COMPARE,
  ):
    trained, made, sources = [], [], []
    config = dataclasses.replace(experiment.config, compare=settings)
    started = dataclasses.replace(experiment, config=config)

    def split(condition, dataset, poison, config):
      assert (poison is None) == (condition == "clean")
      sources.append(poison)
      return dataset.train

    def train(split, dataset, config, defence, *, seed, name, checkpoints, progress):
      cell = Cell(name.split()[0], config.victim.name, defence.name, seed)
      if error := fails(cell):
        raise error
      checkpoints.save(1, {"state": jax.numpy.zeros(1)})
      trained.append((*cell, sources[-1] and sources[-1].manifest["seed"]))
      return {"test_accuracy": 50.0, "peak_test_accuracy": 60.0}

    def measured(experiment, released, columns, states):
      assert states.is_dir()
      name = columns["method"]
      if error := measuring_fails(name):
        raise error
      rows = [{"method": name, "estimator": "knn", "mi": MI[name]}]
      return {"settings": {"samples": 20, "seed": 0}, "rows": rows, "theory": [{"method": name}]}

    def generate(made_by):
      name = made_by.workdir.root.parent.name
      made.append((name, made_by.config.seed))
      if error := poisons_fail(name):
        raise error
      delta = np.zeros(made_by.dataset.train.images.shape, np.int8)
      options = {"method": name, "epsilon": 8 / 255, "seconds": 1.0}
      options["config"] = dataclasses.asdict(made_by.config)
      poison = Poison.make(made_by.dataset, delta, seed=made_by.config.seed, **options)
      poison.save(made_by.workdir.poison)

    monkeypatch.setattr(victims, "training_split", split)
    monkeypatch.setattr(victims, "train", train)
    monkeypatch.setattr(stages, "generate", generate)
    monkeypatch.setattr(measure, "measured", measured)
    monkeypatch.setattr(stages, "start", mock.Mock(return_value=started))
    for drawing in ("heat_map", "line_charts"):  # they take seconds
      monkeypatch.setattr(figures, drawing, lambda *given: None)
    text = compare.run(config, experiment.workdir, "")
    return trained, made, text

  return run


def test_every_combination_once_and_column_by_column():
  every = CELLS
  assert len(every) == len(set(every))
  lines, victims = ("clean", "a", "b"), ("linear", "mlp2")
  plain = {Cell(m, v, "none", s) for m in lines for v in victims for s in (0, 1)}
  defended = {Cell(m, v, "bits2", 1) for m in lines for v in victims}
  assert set(every) == plain | defended
  for start in range(0, len(every), 3):
    assert [cell.method for cell in every[start : start + 3]] == list(lines)
    assert len({cell[1:] for cell in every[start : start + 3]}) == 1
  seeds = [cell.seed for cell in every]
  assert seeds == sorted(seeds)


@pytest.mark.slow
def test_each_poison_is_made_once(comparison, experiment):
  trained, made, _ = comparison()
  assert made == [("a", 0), ("b", 0)]
  assert [cell[:4] for cell in trained] == CELLS
  assert {cell[4] for cell in trained} == {None, 0}
  assert comparison()[:2] == ([], [])  # everything is there


@pytest.mark.slow
def test_each_seed_may_have_its_own_poison(comparison):
  trained, made, _ = comparison(settings=dataclasses.replace(COMPARE, poison_per_seed=True))
  assert sorted(made) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
  assert all(made_by in (None, seed) for *_, seed, made_by in trained)


@pytest.mark.slow
def test_a_cell_that_fails_is_marked_and_tried_again(comparison, experiment):
  failing = Cell("a", "linear", "none", 1)
  trained, _, text = comparison(
    lambda cell: UserError("Not finite: step 3.") if cell == failing else None
  )
  assert len(trained) == len(CELLS) - 1
  assert "a / linear / none / 1: Not finite: step 3." in text
  (line,) = experiment.workdir.lost.read_text().splitlines()
  assert json.loads(line)["reason"] == "Not finite: step 3."
  trained, _, text = comparison()
  assert [cell[:4] for cell in trained] == [failing]
  assert "Not finite" not in text


def test_a_poison_that_fails_costs_its_cells_alone_and_one_attempt(comparison, experiment):
  trained, made, text = comparison(
    poisons_fail=lambda name: UserError("Diverged.") if name == "b" else None
  )
  assert {cell[0] for cell in trained} == {"clean", "a"}
  assert made.count(("b", 0)) == 1
  assert "no poison: Diverged." in text
  assert text.count("Diverged.") == 1


@pytest.mark.slow
def test_what_another_program_has_is_left_until_the_end(comparison, experiment):
  theirs = Cell("a", "linear", "none", 0)
  last = CELLS[-1]
  with holder.holding(experiment.workdir.locks, *theirs) as other:
    trained, _, _ = comparison(lambda cell: holder.let_go(other) if cell == last else None)
  assert [cell[:4] for cell in trained][-2:] == [last, theirs]
  assert len(trained) == len(CELLS)


@pytest.mark.slow
def test_what_another_program_finished_is_not_repeated(comparison, experiment):
  theirs = Cell("a", "linear", "bits2", 1)
  last = CELLS[-1]
  row = {"dataset": "d", "test_accuracy": 50.0, "peak_test_accuracy": 60.0} | theirs._asdict()

  def finish(cell):
    if cell == last:
      Rows(experiment.workdir.results).append(row)
      holder.let_go(other)

  with holder.holding(experiment.workdir.locks, *theirs) as other:
    trained, _, _ = comparison(finish)
  assert theirs not in [cell[:4] for cell in trained]
  assert sorted(filled(experiment.workdir.results)) == sorted(CELLS)


@pytest.mark.slow
def test_a_poison_that_another_program_makes_is_waited_for(comparison, experiment):
  with holder.holding(experiment.workdir.locks, "poison", "a", 0) as other:
    last = [cell for cell in CELLS if cell.method != "a"][-1]
    trained, made, _ = comparison(lambda cell: holder.let_go(other) if cell == last else None)
  methods = [cell[0] for cell in trained]
  assert set(methods[methods.index("a") :]) == {"a"}
  assert made == [("b", 0), ("a", 0)]


@pytest.mark.slow
def test_one_undefended_victim_of_each_line_is_measured(comparison, experiment):
  path = experiment.workdir.measurements
  _, _, text = comparison()
  victims = [Cell(m, v, "none", 0) for v in ("linear", "mlp2") for m in ("clean", "a", "b")]
  assert filled(path) == victims
  assert not list(experiment.workdir.checkpoints.rglob("victims/*"))
  (line, _) = [line.split("|") for line in text.splitlines() if "| a " in line and "1.250" in line]
  assert [cell.strip() for cell in line[-3:-1]] == ["1.250", "0.750"]
  before = path.read_bytes()
  comparison()
  assert path.read_bytes() == before


@pytest.mark.long
@pytest.mark.parametrize(
  "error", [UserError("Damaged."), np.linalg.LinAlgError("SVD did not converge"), MemoryError()]
)
def test_a_measurement_that_fails_is_made_up_for_without_training(comparison, experiment, error):
  path = experiment.workdir.measurements
  trained, _, text = comparison(measuring_fails=lambda name: error if name == "a" else None)
  assert len(trained) == len(CELLS)
  assert {cell.method for cell in filled(path)} == {"clean", "b"}
  assert "1.250" not in text
  trained, _, text = comparison()
  assert trained == []
  assert {cell.method for cell in filled(path)} == {"clean", "a", "b"}
  assert "1.250" in text
  assert not list(experiment.workdir.checkpoints.rglob("victims/*"))


@pytest.mark.slow
def test_a_table_whose_victims_are_gone_has_no_measurements(comparison, experiment):
  _, _, text = comparison()
  experiment.workdir.measurements.unlink()
  trained, _, later = comparison()
  assert trained == []
  assert "| MI gap (nats) |" in text
  assert "| MI gap (nats) |" not in later
  assert not experiment.workdir.measurements.exists()


@pytest.mark.parametrize("error", [Interrupted(15), ValueError("a mistake of ours")])
def test_what_is_no_loss_ends_the_run(comparison, error):
  with pytest.raises(type(error)):
    comparison(lambda cell: error if cell.method == "a" else None)


@pytest.mark.slow
def test_the_report_knows_the_settings_of_each_poison(comparison, experiment, monkeypatch):
  recipes = COMPARE.recipes | {"b": {"name": "random", "fraction": 0.5}}
  settings = dataclasses.replace(COMPARE, recipes=recipes)
  comparison(settings=settings)
  done = dataclasses.replace(experiment, config=Config(compare=settings))
  found = {name: poisons.facts(done, name) for name in "ab"}
  assert [found[name]["settings"]["fraction"] for name in "ab"] == [1.0, 0.5]
  assert [found[name]["seconds"] for name in "ab"] == [[1.0], [1.0]]
  assert poisons.facts(done, "c") == {}


def test_a_victim_that_starts_from_weights_has_another_name(experiment):
  cell = Cell("a", "linear", "none", 0)
  fitted = dataclasses.replace(experiment.config.victim_fit, start_from="there/letters.npz")
  started = dataclasses.replace(
    experiment, config=dataclasses.replace(experiment.config, victim_fit=fitted)
  )
  axes = compare.axes(experiment.config)
  tables = [Table(given, axes, lambda cell, wait: None) for given in (experiment, started)]
  plain, pretrained = (table.columns(cell) for table in tables)
  assert tuple(plain) == tuple(pretrained) == results.KEY
  assert pretrained == plain | {"victim": "linear from letters"}
  Rows(experiment.workdir.results).append(pretrained)
  # A row of another start fills no cell.
  assert [len(table.missing()) for table in tables] == [len(CELLS), len(CELLS) - 1]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"methods": ()}, "nothing to compare"),
    ({"methods": ("clean",)}, "'clean'"),
    ({"methods": ("magic",)}, r"'magic'.*known: .*miue"),
    ({"victims": ("magic",)}, r"'magic' in compare\.victims; known: .*resnet18"),
    ({"defences": ("magic",)}, r"'magic'.*grayscale"),
    ({"external": ("a=.",)}, r"'a', which is taken"),
  ],
)
def test_wrong_names_are_refused_before_anything_is_read(changes, words):
  with pytest.raises(UserError, match=words):
    compare.check(Config(compare=dataclasses.replace(COMPARE, **changes)))
