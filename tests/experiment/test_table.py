"""The order of the cells of a table, and which of their victims are measured."""

from miue_jax.experiment.table import Axes, Cell


def test_cells_go_seed_by_seed_and_column_by_column():
  axes = Axes(("clean", "miue"), ("linear",), ("none", "jpeg10"), (5, 6))
  assert axes.cells() == [
    Cell(method, "linear", defence, seed)
    for seed in (5, 6)
    for defence in ("none", "jpeg10")
    for method in ("clean", "miue")
  ]


def test_victims_with_a_defence_may_have_other_seeds():
  axes = Axes(("clean",), ("linear",), ("jpeg10", "none"), (2, 0), (0, 7))
  assert axes.seeds_of("none") == (2, 0)
  assert axes.seeds_of("jpeg10") == (0, 7)
  assert [(cell.defence, cell.seed) for cell in axes.cells()] == [
    ("none", 2),
    ("jpeg10", 0),
    ("none", 0),
    ("jpeg10", 7),
  ]


def test_undefended_victims_of_the_first_seed_are_measured():
  axes = Axes(("clean", "miue"), ("linear", "mlp2"), ("none", "jpeg10"), (5, 6))
  assert axes.measured() == [
    Cell(method, victim, "none", 5) for victim in ("linear", "mlp2") for method in ("clean", "miue")
  ]
