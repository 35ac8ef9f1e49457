"""The arena's tables for other programs: CSV and LaTeX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report import arena
from miue_jax.report.aggregate import statistic


def to_csv(contents: Sequence[arena.Content]) -> str:
  """One line for each cell of all tables, with everything that is known about it."""
  lines = []
  for content in contents:
    for panel in content.panels:
      where = {"dataset": content.dataset, "victim": panel.victim}
      for method, line in panel.entries.items():
        for defence, entry in line.items():
          lines.append(
            where
            | {"defence": defence, "method": method}
            | _csv_cells(entry)
            | _csv_information(panel, method, defence)
            | _csv_facts(content.costs.get(method, {}))
          )
  stream = io.StringIO()
  columns = dict.fromkeys(name for line in lines for name in line)
  writer = csv.DictWriter(stream, columns, lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return stream.getvalue()


def _csv_cells(entry: arena.Entry) -> dict[str, Any]:
  last, peak = entry.last, entry.peak
  return {
    "seeds": entry.condition.seeds if entry.condition else 0,
    "seeds_wanted": entry.wanted,
    "test_accuracy": last and last.mean,
    "test_accuracy_std": last and last.std,
    "peak_test_accuracy": peak and peak.mean,
    "peak_test_accuracy_std": peak and peak.std,
    "gap": entry.gap,
    "strongest": int(entry.strongest),
    "published": entry.published,
    "lost": "; ".join(f"seed {seed}: {reason}" for seed, reason in entry.losses),
  }


def _csv_information(panel: arena.Panel, method: str, defence: str) -> dict[str, Any]:
  """Nats by estimator, on the line of the victims that were measured: those without a defence."""
  measured, found = panel.measured, {}
  for estimator in measured.estimators if defence == "none" else ():
    name = estimator.replace(" ", "_")
    low, high = measured.lines.get(method, {}).get(estimator, {}).get("interval") or (None, None)
    found |= {
      f"mi_{name}": measured.value(method, estimator),
      f"mi_{name}_low": low,
      f"mi_{name}_high": high,
      f"mi_gap_{name}": measured.gap(method, estimator),
    }
  return found


def _csv_facts(fact: Mapping[str, Any]) -> dict[str, Any]:
  seconds = statistic(fact.get("seconds", ()))
  return {
    "generation_seconds": seconds and seconds.mean,
    "peak_memory_bytes": fact.get("peak_memory_bytes"),
    "max_delta_255ths": fact.get("max_delta_255ths"),
    "budget": fact.get("budget"),
  }


def latex(contents: Sequence[arena.Content]) -> str:
  """One `table*` for each data set and victim; needs the package booktabs."""
  parts = [r"% \usepackage{booktabs}"]
  for content in contents:
    for panel in content.panels:
      parts += _tex_table(content, panel)
  return "\n".join(parts) + "\n"


def _tex_table(content: arena.Content, panel: arena.Panel) -> list[str]:
  header = ["method", *panel.defences, *(name for name, _ in panel.measured.columns)]
  legend = f"{content.legend} {panel.measured.legend}".strip()
  lines = [
    r"\begin{table*}",
    r"\centering",
    rf"\caption{{{_tex(f'{content.dataset}, victim {panel.victim}. {legend}')}}}",
    rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
    r"\toprule",
    " & ".join(map(_tex, header)) + r" \\",
    r"\midrule",
  ]
  for method, line in panel.entries.items():
    cells = [_tex(method), *(_tex_cell(line[defence]) for defence in panel.defences)]
    cells += map(_tex, panel.measured.cells(method))
    lines.append(" & ".join(cells) + r" \\")
  return [*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]


def _tex_cell(entry: arena.Entry) -> str:
  text = _tex(arena.accuracy(entry))
  return rf"\textbf{{{text}}}" if entry.strongest else text


def _tex(text: str) -> str:
  """Text that LaTeX sets as it is written."""
  special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
  special |= {character: rf"\{character}" for character in "&%$#_{}"}
  special |= {"±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}"}
  return "".join(special.get(character, character) for character in text)
