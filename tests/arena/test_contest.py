"""The order of cells, which poison each gets, and what happens when one of them fails."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest

from miue_jax import config as configs
from miue_jax import evaluate, stages
from miue_jax import poison as artefact
from miue_jax.arena import contest
from miue_jax.arena.contest import Cell
from miue_jax.config import Arena, Config
from miue_jax.data.dataset import Dataset, Split
from miue_jax.errors import UserError
from miue_jax.processes import Interrupted
from miue_jax.report import figures
from miue_jax.workdir import Workdir

ARENA = Arena(
  methods=("a", "b"),
  recipes={"a": {"method": {"name": "random"}}, "b": {"method": {"name": "random"}}},
  victims=("linear", "mlp2"),
  defences=("none", "bits2"),
  seeds=(0, 1),
  defended_seeds=(1,),
)


@pytest.fixture
def experiment(tmp_path):
  rng = np.random.default_rng(0)
  split = Split(rng.integers(0, 256, (20, 8, 8, 1), np.uint8), np.arange(20, dtype=np.int32) % 2)
  dataset = Dataset("d", split, split, ("x", "y"))
  return stages.Experiment(Config(arena=ARENA), Workdir(tmp_path), dataset, "")


@pytest.fixture
def contested(experiment, monkeypatch):
  """`contested(fails, poisons_fail)` runs the arena without training; returns the trained cells.

  Both are functions that say with which exception a cell or the poison of a method fails.
  """

  def run(fails=lambda cell: None, poisons_fail=lambda name: None, arena=ARENA):
    trained, made = [], []
    config = dataclasses.replace(experiment.config, arena=arena)
    started = dataclasses.replace(experiment, config=config)

    def rows(dataset, poison, config, *, results, checkpoints, progress):
      (condition,), (defence,) = config.evaluate.conditions, config.evaluate.defences
      assert (poison is None) == (condition == "clean")
      name = evaluate.method_of(condition, config)
      cell = Cell(name, config.victim.name, defence, *config.evaluate.seeds)
      if error := fails(cell):
        raise error
      accuracy = {"test_accuracy": 50.0, "peak_test_accuracy": 60.0}
      evaluate.append(results, {"dataset": dataset.name} | cell._asdict() | accuracy)
      trained.append((*cell, poison and poison.manifest["seed"]))

    def generate(made_by):
      name = made_by.workdir.root.parent.name
      made.append((name, made_by.config.seed))
      if error := poisons_fail(name):
        raise error
      delta = np.zeros(made_by.dataset.train.images.shape, np.int8)
      options = {"method": name, "epsilon": 8 / 255, "config": {}, "seconds": 1.0}
      poison = artefact.make(made_by.dataset, delta, seed=made_by.config.seed, **options)
      artefact.save(poison, made_by.workdir.poison)

    monkeypatch.setattr(evaluate, "rows", rows)
    monkeypatch.setattr(stages, "generate", generate)
    monkeypatch.setattr(stages, "start", mock.Mock(return_value=started))
    monkeypatch.setattr(contest, "_check_fit", lambda experiment: None)
    monkeypatch.setattr(figures, "heat_map", lambda *drawing: None)  # it takes a second
    text = contest.run(config, experiment.workdir, "")
    return trained, made, text

  return run


def test_every_combination_once_and_column_by_column():
  cells = list(contest.cells(Config(arena=ARENA)))
  assert len(cells) == len(set(cells))
  lines, victims = ("clean", "a", "b"), ("linear", "mlp2")
  plain = {Cell(m, v, "none", s) for m in lines for v in victims for s in (0, 1)}
  defended = {Cell(m, v, "bits2", 1) for m in lines for v in victims}
  assert set(cells) == plain | defended
  for start in range(0, len(cells), 3):
    assert [cell.method for cell in cells[start : start + 3]] == list(lines)
    assert len({cell[1:] for cell in cells[start : start + 3]}) == 1
  seeds = [cell.seed for cell in cells]
  assert seeds == sorted(seeds)


def test_each_poison_is_made_once(contested, experiment):
  trained, made, _ = contested()
  assert made == [("a", 0), ("b", 0)]
  assert [cell[:4] for cell in trained] == list(contest.cells(experiment.config))
  assert {cell[4] for cell in trained} == {None, 0}
  assert contested()[:2] == ([], [])  # everything is there


def test_each_seed_may_have_its_own_poison(contested):
  trained, made, _ = contested(arena=dataclasses.replace(ARENA, poison_per_seed=True))
  assert sorted(made) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
  assert all(made_by in (None, seed) for *_, seed, made_by in trained)


def test_a_cell_that_fails_is_marked_and_tried_again(contested, experiment):
  failing = Cell("a", "linear", "none", 1)
  trained, _, text = contested(
    lambda cell: UserError("Not finite: step 3.") if cell == failing else None
  )
  assert len(trained) == len(list(contest.cells(experiment.config))) - 1
  assert "a / linear / none / 1: Not finite: step 3." in text
  (line,) = (experiment.workdir.root / "lost.jsonl").read_text().splitlines()
  assert json.loads(line)["reason"] == "Not finite: step 3."
  trained, _, text = contested()
  assert [cell[:4] for cell in trained] == [failing]
  assert "Not finite" not in text


def test_a_poison_that_fails_costs_its_cells_alone_and_one_attempt(contested, experiment):
  trained, made, text = contested(
    poisons_fail=lambda name: UserError("Diverged.") if name == "b" else None
  )
  assert {cell[0] for cell in trained} == {"clean", "a"}
  assert made.count(("b", 0)) == 1
  assert "no poison: Diverged." in text
  assert text.count("Diverged.") == 1


@pytest.mark.parametrize("error", [Interrupted(15), ValueError("a mistake of ours")])
def test_what_is_no_loss_ends_the_run(contested, error):
  with pytest.raises(type(error)):
    contested(lambda cell: error if cell.method == "a" else None)


def test_recipes_change_what_they_say_and_nothing_else():
  arena = Arena(
    methods=("em", "em_class"),
    recipes={"em_class": {"method": {"name": "em", "class_wise": True}, "model": {"width": 8}}},
  )
  config = Config(arena=arena)
  plain, changed = (configs.for_method(config, name) for name in arena.methods)
  assert plain == dataclasses.replace(config, method=dataclasses.replace(config.method, name="em"))
  assert changed.method == dataclasses.replace(plain.method, class_wise=True)
  assert changed.model == dataclasses.replace(plain.model, width=8)
  assert changed.victim == config.victim


@pytest.mark.parametrize(
  ("recipe", "words"),
  [
    ({"victim": {"width": 8}}, r"arena\.recipes\.em\.victim changes what all methods share"),
    ({"method": {"epohs": 8}}, r"arena\.recipes\.em\.method\.epohs; did you mean .*epochs"),
    ({"method": {"epochs": "8"}}, r"arena\.recipes\.em\.method\.epochs is '8' \(str\)"),
    ({"method": {"epochs": 0}}, r"'em' of the arena cannot be made: .*method\.epochs"),
    ({"method": 8}, r"arena\.recipes\.em\.method is 8"),
    (8, r"arena\.recipes\.em is 8"),
  ],
)
def test_a_wrong_recipe_is_named(recipe, words):
  settings = configs.default()
  settings.arena.methods = ("em",)
  settings.arena.recipes.em = recipe
  with pytest.raises(UserError, match=words):
    configs.freeze(settings)
