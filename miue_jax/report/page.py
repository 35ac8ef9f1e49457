"""Content -> one self-contained HTML page, a Markdown file and a JSON file."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np

from miue_jax.report import content as content_lib
from miue_jax.report import course, figures, information, tables, verdict
from miue_jax.report.aggregate import Row
from miue_jax.report.content import Content, Examples

SHOWN = 8  # example images at most
_CLASS = {
  verdict.PROTECTED: "good",
  verdict.PARTLY: "fair",
  verdict.NOT_PROTECTED: "bad",
  verdict.UNKNOWN: "open",
}


def rendered(template: str, **values: Any) -> str:
  """A page by one of our templates: no script and nothing that a browser would load."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("miue_jax.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template(template).render(values)


def html(content: Content, examples: Examples | None) -> str:
  """The page of one experiment."""
  return rendered(
    "page.html.jinja",
    content=content,
    sentence=content.verdict.sentence.replace(" %", "\N{NO-BREAK SPACE}%"),
    verdict_class=_CLASS[content.verdict.judgement],
    rule=verdict.RULE,
    results=tables.results(content.conditions),
    result_legend=tables.RESULT_LEGEND,
    curves=figures.learning_curves(content.conditions, content.chance),
    pictures=_pictures(examples),
    gain=content_lib.GAIN,
    bars=figures.information_bars(content.information),
    over_layers=figures.information_layers(content.information),
    information_columns=information.COLUMNS,
    information_cells=information.cells(content.information),
    information_notes=_information_notes(content),
    measure_settings=information.settings(content.measurement),
    theory=information.theory_table(content.measurement),
    theory_legend=information.THEORY_LEGEND,
    spectra=figures.spectra(information.spectra(content.measurement)),
    spectrum_legend=information.SPECTRUM_LEGEND,
    rivals=information.rival_table(content.measurement),
    rival_legend=information.RIVAL_LEGEND,
    theory_classes=information.class_table(content.measurement),
    theory_sentences=information.theory_sentences(content.measurement),
    course=course.curves(content.course),
    course_legend=course.LEGEND,
    course_sentence=course.sentence(content.course),
    config=sections(content.config),
    text=content_lib,
    no_results=tables.NO_RESULTS,
  )


def _pictures(examples: Examples | None) -> dict[str, Any] | None:
  if examples is None or not len(examples.clean):
    return None
  clean, poisoned = examples.clean[:SHOWN], examples.poisoned[:SHOWN]
  delta = figures.magnified(clean, poisoned, content_lib.GAIN)
  rows = (("clean", clean), (f"perturbation x{content_lib.GAIN}", delta), ("poisoned", poisoned))
  return {
    "captions": examples.captions[:SHOWN],
    "rows": [(name, [figures.image_uri(image) for image in images]) for name, images in rows],
  }


def _information_notes(content: Content) -> list[str]:
  disagreement = information.disagreement(content.information)
  return [disagreement] * bool(disagreement) + information.warnings(content.information)


def sections(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
  """Settings as readable pairs, section by section."""
  nested = {key: value for key, value in config.items() if isinstance(value, Mapping)}
  top = {key: value for key, value in config.items() if key not in nested}
  sections = [(key, tables.flatten(value, f"{key}.")) for key, value in nested.items()]
  return [("experiment", tables.flatten(top)), *sections] if top else sections


def markdown(content: Content) -> str:
  """The page without its pictures."""
  escape = tables.escape
  pairs = (("setting", False), ("value", False))
  lines = [f"# {escape(content.title)}", ""]
  lines += [f"**{content.verdict.judgement}.** {escape(content.verdict.sentence)}", ""]
  lines += [f"- {escape(note)}" for note in content.verdict.notes]
  lines += ["", f"Rule: {escape(verdict.RULE)}", "", "## Results", ""]
  if content.conditions:
    lines += [tables.markdown(*tables.results(content.conditions)), "", tables.RESULT_LEGEND, ""]
  else:
    lines += [tables.NO_RESULTS, ""]
  if content.quality:
    lines += ["## The images", "", tables.markdown(pairs, content.quality), ""]
  lines += ["## Mutual information", ""]
  if content.information:
    cells = information.cells(content.information)
    lines += [tables.markdown(information.COLUMNS, cells), ""]
    lines += [f"- {escape(note)}" for note in _information_notes(content)]
    lines += ["", tables.markdown(pairs, information.settings(content.measurement)), ""]
    lines += [content_lib.INFORMATION_CAVEAT, ""]
    lines += _theory(content)
  else:
    lines += [content_lib.NO_INFORMATION, ""]
  if said := course.sentence(content.course):
    columns, cells = course.table(content.course)
    lines += [f"### {course.TITLE}", "", tables.markdown(columns, cells), ""]
    lines += [said, "", course.LEGEND, ""]
  lines += ["## How it was made", "", *(f"    {line}" for line in content.command.splitlines()), ""]
  if content.provenance:
    lines += [tables.markdown(pairs, content.provenance), ""]
  lines += [tables.markdown(pairs, tables.flatten(content.config)), ""]
  lines += ["## What this does not show", "", *(f"- {escape(line)}" for line in content.limits)]
  return "\n".join(lines) + "\n"


def _theory(content: Content) -> list[str]:
  columns, cells = information.theory_table(content.measurement)
  sentences = [*map(tables.escape, information.theory_sentences(content.measurement)), ""]
  if not cells:
    return sentences
  table = tables.markdown(columns, cells)
  by_class = information.class_table(content.measurement)
  classes = [tables.markdown(*by_class), ""] if by_class[1] else []
  rivals = information.rival_table(content.measurement)
  others = [
    "### Other explanations",
    "",
    tables.markdown(*rivals),
    "",
    information.RIVAL_LEGEND,
    "",
  ]
  theory = ["### The theory", "", table, "", *sentences, information.THEORY_LEGEND, "", *classes]
  return theory + (others if rivals[1] else [])


def to_json(content: Content, rows: list[Row]) -> str:
  """Aggregates with everything they were made from; what is not finite becomes null."""
  aggregates = [dataclasses.asdict(c) for c in content.conditions]
  for aggregate in aggregates:
    del aggregate["curves"]  # they are in the rows
  document = {
    "verdict": dataclasses.asdict(content.verdict) | {"rule": verdict.RULE},
    "chance": content.chance,
    "aggregates": aggregates,
    "rows": rows,
    "measurement": content.measurement,
    "manifest": content.manifest,
    "config": content.config,
    "command": content.command,
    "limits": content.limits,
  }
  return json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
  """The same tree in what strict JSON can hold."""
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, np.ndarray | np.generic):
    return _plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
