"""The order of cells, which poison each gets, and what happens when one of them fails."""

import dataclasses
import json
from unittest import mock

import holder
import numpy as np
import pytest

from miue_jax import report
from miue_jax.artefact.poison import Poison
from miue_jax.data.dataset import Dataset, Split
from miue_jax.experiment import cells, evaluate, grid, measure, stages
from miue_jax.experiment.cells import Cell
from miue_jax.experiment.workdir import Workdir
from miue_jax.machine.processes import Interrupted
from miue_jax.report import arena_figures
from miue_jax.settings.config import Compare, Config
from miue_jax.settings.errors import UserError

ARENA = Compare(
  methods=("a", "b"),
  recipes={"a": {"method": {"name": "random"}}, "b": {"method": {"name": "random"}}},
  victims=("linear", "mlp2"),
  defences=("none", "bits2"),
  seeds=(0, 1),
  defended_seeds=(1,),
)

MI = {"clean": 2.0, "a": 1.25, "b": 1.5}


@pytest.fixture
def experiment(tmp_path):
  rng = np.random.default_rng(0)
  split = Split(rng.integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 2)
  dataset = Dataset("d", split, split, ("x", "y"))
  return stages.Experiment(Config(compare=ARENA), Workdir(tmp_path), dataset, "")


def filled(path):
  """Cells of a file of rows."""
  return [Cell(*(row[key] for key in Cell._fields)) for row in evaluate.read(path)]


@pytest.fixture
def comparisoned(experiment, monkeypatch):
  """`comparisoned(fails, poisons_fail, measuring_fails)` runs the comparison without training.

  All are functions that say with which exception a cell, the poison of a method or the measurement
  of a method fails. Returns the trained cells, the poisons made and the table.
  """

  def run(
    fails=lambda cell: None,
    poisons_fail=lambda name: None,
    measuring_fails=lambda name: None,
    compare=ARENA,
  ):
    trained, made = [], []
    config = dataclasses.replace(experiment.config, compare=compare)
    started = dataclasses.replace(experiment, config=config)

    def rows(dataset, poison, config, *, results, checkpoints, progress):
      (condition,), (defence,) = config.evaluate.conditions, config.evaluate.defences
      assert (poison is None) == (condition == "clean")
      name = evaluate.method_of(condition, config)
      cell = Cell(name, config.victim.name, defence, *config.evaluate.seeds)
      if error := fails(cell):
        raise error
      if cell in filled(results):
        return
      (checkpoints / "state").mkdir(parents=True)
      accuracy = {"test_accuracy": 50.0, "peak_test_accuracy": 60.0}
      evaluate.append(results, {"dataset": dataset.name} | cell._asdict() | accuracy)
      trained.append((*cell, poison and poison.manifest["seed"]))

    def measured(dataset, poison, config, checkpoints):
      assert (checkpoints / "state").is_dir()
      assert (poison is None) == (config.evaluate.conditions == ("clean",))
      name = checkpoints.parent.parent.name
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

    monkeypatch.setattr(evaluate, "rows", rows)
    monkeypatch.setattr(stages, "generate", generate)
    monkeypatch.setattr(measure, "measured", measured)
    monkeypatch.setattr(stages, "start", mock.Mock(return_value=started))
    monkeypatch.setattr(grid, "_check_fit", lambda experiment: None)
    for drawing in ("heat_map", "line_charts"):  # they take seconds
      monkeypatch.setattr(arena_figures, drawing, lambda *given: None)
    text = grid.run(config, experiment.workdir, "")
    return trained, made, text

  return run


def test_every_combination_once_and_column_by_column():
  every = list(cells.every(Config(compare=ARENA)))
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


def test_each_poison_is_made_once(comparisoned, experiment):
  trained, made, _ = comparisoned()
  assert made == [("a", 0), ("b", 0)]
  assert [cell[:4] for cell in trained] == list(cells.every(experiment.config))
  assert {cell[4] for cell in trained} == {None, 0}
  assert comparisoned()[:2] == ([], [])  # everything is there


def test_each_seed_may_have_its_own_poison(comparisoned):
  trained, made, _ = comparisoned(compare=dataclasses.replace(ARENA, poison_per_seed=True))
  assert sorted(made) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
  assert all(made_by in (None, seed) for *_, seed, made_by in trained)


def test_a_cell_that_fails_is_marked_and_tried_again(comparisoned, experiment):
  failing = Cell("a", "linear", "none", 1)
  trained, _, text = comparisoned(
    lambda cell: UserError("Not finite: step 3.") if cell == failing else None
  )
  assert len(trained) == len(list(cells.every(experiment.config))) - 1
  assert "a / linear / none / 1: Not finite: step 3." in text
  (line,) = (experiment.workdir.root / "lost.jsonl").read_text().splitlines()
  assert json.loads(line)["reason"] == "Not finite: step 3."
  trained, _, text = comparisoned()
  assert [cell[:4] for cell in trained] == [failing]
  assert "Not finite" not in text


def test_a_poison_that_fails_costs_its_cells_alone_and_one_attempt(comparisoned, experiment):
  trained, made, text = comparisoned(
    poisons_fail=lambda name: UserError("Diverged.") if name == "b" else None
  )
  assert {cell[0] for cell in trained} == {"clean", "a"}
  assert made.count(("b", 0)) == 1
  assert "no poison: Diverged." in text
  assert text.count("Diverged.") == 1


def test_what_another_program_has_is_left_until_the_end(comparisoned, experiment):
  theirs = Cell("a", "linear", "none", 0)
  last = list(cells.every(experiment.config))[-1]
  with holder.holding(experiment.workdir.root / "locks", *theirs) as other:
    trained, _, _ = comparisoned(lambda cell: holder.let_go(other) if cell == last else None)
  assert [cell[:4] for cell in trained][-2:] == [last, theirs]
  assert len(trained) == len(list(cells.every(experiment.config)))


def test_what_another_program_did_meanwhile_is_not_repeated(comparisoned, experiment):
  theirs = Cell("a", "linear", "bits2", 1)
  last = list(cells.every(experiment.config))[-1]
  row = {"dataset": "d", "test_accuracy": 50.0, "peak_test_accuracy": 60.0} | theirs._asdict()

  def finish(cell):
    if cell == last:
      evaluate.append(experiment.workdir.results, row)
      holder.let_go(other)

  with holder.holding(experiment.workdir.root / "locks", *theirs) as other:
    trained, _, _ = comparisoned(finish)
  assert theirs not in [cell[:4] for cell in trained]
  assert sorted(filled(experiment.workdir.results)) == sorted(cells.every(experiment.config))


def test_a_poison_that_another_program_makes_is_waited_for(comparisoned, experiment):
  with holder.holding(experiment.workdir.root / "locks", "poison", "a", 0) as other:
    last = [cell for cell in cells.every(experiment.config) if cell.method != "a"][-1]
    trained, made, _ = comparisoned(lambda cell: holder.let_go(other) if cell == last else None)
  methods = [cell[0] for cell in trained]
  assert set(methods[methods.index("a") :]) == {"a"}
  assert made == [("b", 0), ("a", 0)]


def test_one_undefended_victim_of_each_line_is_measured(comparisoned, experiment):
  path = experiment.workdir.root / "measurements.jsonl"
  _, _, text = comparisoned()
  victims = [Cell(m, v, "none", 0) for v in ("linear", "mlp2") for m in ("clean", "a", "b")]
  assert filled(path) == victims
  assert not list(experiment.workdir.checkpoints.rglob("state"))
  (line, _) = [line.split("|") for line in text.splitlines() if "| a " in line and "1.250" in line]
  assert [cell.strip() for cell in line[-3:-1]] == ["1.250", "0.750"]
  before = path.read_bytes()
  comparisoned()
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  "error", [UserError("Damaged."), np.linalg.LinAlgError("SVD did not converge"), MemoryError()]
)
def test_a_measurement_that_fails_is_made_up_for_without_training(comparisoned, experiment, error):
  path = experiment.workdir.root / "measurements.jsonl"
  trained, _, text = comparisoned(measuring_fails=lambda name: error if name == "a" else None)
  assert len(trained) == len(list(cells.every(experiment.config)))
  assert {cell.method for cell in filled(path)} == {"clean", "b"}
  assert "1.250" not in text
  trained, _, text = comparisoned()
  assert trained == []
  assert {cell.method for cell in filled(path)} == {"clean", "a", "b"}
  assert "1.250" in text
  assert not list(experiment.workdir.checkpoints.rglob("state"))


def test_a_table_whose_victims_are_gone_has_no_measurements(comparisoned, experiment):
  _, _, text = comparisoned()
  (experiment.workdir.root / "measurements.jsonl").unlink()
  trained, _, later = comparisoned()
  assert trained == []
  assert "| MI gap (nats) |" in text
  assert "| MI gap (nats) |" not in later
  assert not (experiment.workdir.root / "measurements.jsonl").exists()


@pytest.mark.parametrize("error", [Interrupted(15), ValueError("a mistake of ours")])
def test_what_is_no_loss_ends_the_run(comparisoned, error):
  with pytest.raises(type(error)):
    comparisoned(lambda cell: error if cell.method == "a" else None)


def test_the_report_is_told_what_made_each_poison(comparisoned, monkeypatch):
  given, gather = {}, report.gather_arena
  monkeypatch.setattr(
    report, "gather_arena", lambda *axes, **facts: given.update(facts) or gather(*axes, **facts)
  )
  recipes = ARENA.recipes | {"b": {"method": {"name": "random", "fraction": 0.5}}}
  comparisoned(compare=dataclasses.replace(ARENA, recipes=recipes))
  settings = {name: fact["settings"] for name, fact in given["facts"].items()}
  assert {name: set(one) for name, one in settings.items()} == {
    name: {"model", "source", "method"} for name in "ab"
  }
  assert [settings[name]["method"]["fraction"] for name in "ab"] == [1.0, 0.5]
  assert set(given["explanations"]) == {"linear", "mlp2"}


def test_a_victim_that_starts_from_weights_has_a_line_of_its_own(experiment):
  cell = Cell("a", "linear", "none", 0)
  fitted = dataclasses.replace(experiment.config.victim_fit, start_from="there/letters.npz")
  started = dataclasses.replace(
    experiment, config=dataclasses.replace(experiment.config, victim_fit=fitted)
  )
  plain, pretrained = (cells.columns(cell, given) for given in (experiment, started))
  assert tuple(plain) == tuple(pretrained) == evaluate.CELL
  assert pretrained == plain | {"victim": "linear from letters"}
  assert grid.missing(started)  # no row of another start fills a cell
  evaluate.append(experiment.workdir.results, pretrained)
  assert len(grid.missing(experiment)) == len(grid.missing(started)) + 1
