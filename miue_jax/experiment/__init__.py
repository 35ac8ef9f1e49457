"""The comparison: methods, each by its own recipe, against victims and defences, over seeds.

  WORKDIR/poisons/METHOD/SEED/poison    the artefact of each method, made here or external
  WORKDIR/results.jsonl                 one row for each trained victim
  WORKDIR/measurements.jsonl            information and theory, of one victim for each line
  WORKDIR/lost.jsonl                    why a cell of the table is empty
  WORKDIR/locks                         locks: several programs may fill one table
  WORKDIR/report/compare.*                the table, as a page, Markdown, CSV and LaTeX

`WORKDIR/poisons/METHOD/SEED` is laid out as the workdir of an experiment. With several data sets
each has all but the report in a folder of its own, `WORKDIR/DATASET`.
"""

from miue_jax.experiment.grid import run

__all__ = ["run"]
