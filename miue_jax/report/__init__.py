"""Turns rows of results into tables, figures and self-contained HTML pages.

The report reads plain mappings that the stages wrote (rows, manifests, measurements) and imports
none of the stages.
"""

from miue_jax.report.aggregate import Axes
from miue_jax.report.comparison import Comparison, Results
from miue_jax.report.experiment import Examples, Experiment, quality, table
from miue_jax.report.information import table as information_table

__all__ = [
  "Axes",
  "Comparison",
  "Examples",
  "Experiment",
  "Results",
  "information_table",
  "quality",
  "table",
]
