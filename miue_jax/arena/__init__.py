"""The arena: methods, each by its own recipe, against victims and defences, over seeds.

  WORKDIR/poisons/METHOD/SEED/poison    the artefact of each method, made or brought
  WORKDIR/results.jsonl                 one row for each trained victim
  WORKDIR/measurements.jsonl            information and theory, of one victim for each line
  WORKDIR/lost.jsonl                    why a cell of the table is empty
  WORKDIR/report/arena.*                the table, as a page, Markdown, CSV and LaTeX

`WORKDIR/poisons/METHOD/SEED` is laid out as the workdir of an experiment.
"""

from miue_jax.arena.contest import run

__all__ = ["run"]
