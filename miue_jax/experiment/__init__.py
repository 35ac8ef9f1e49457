"""Runs experiments: makes poisons, trains and measures victims, and reports the results.

A single experiment (`stages`) has this folder:

  WORKDIR/poison              the poison
  WORKDIR/results.jsonl       one row for each trained victim
  WORKDIR/measurement.json    information and theory, of one victim for each condition
  WORKDIR/report              the report as HTML, Markdown and JSON

A comparison (`compare`) makes one table of many methods, victims, defences and seeds:

  WORKDIR/poisons/METHOD/SEED    the workdir of each poison, made here or external
  WORKDIR/results.jsonl          one row for each trained victim
  WORKDIR/measurements.jsonl     information and theory, of one victim for each line
  WORKDIR/lost.jsonl             the reason why a cell of the table is empty
  WORKDIR/.locks                 locks, with which several programs fill one table
  WORKDIR/report/compare.*       the table as HTML, Markdown, CSV and LaTeX

A comparison of several datasets has all but the report in one folder for each, `WORKDIR/DATASET`.
"""
