"""The arena's tables as a document."""

from collections.abc import Sequence

from miue_jax.report import arena, arena_curves, arena_explanations, tables


def markdown(contents: Sequence[arena.Content], command: str) -> str:
  """The tables of all data sets as a document."""
  lines = [f"# {tables.escape(arena.title(contents))}", ""]
  if len(contents) > 1:
    lines += ["## Without a defence", "", tables.markdown(*arena.side_by_side(contents)), ""]
    lines += [arena.ACCURACY_LEGEND, ""]
  for content in contents:
    lines += _one(content)
  lines += ["## How it was made", "", *(f"    {line}" for line in command.splitlines())]
  return "\n".join(lines) + "\n"


def _one(content: arena.Content) -> list[str]:
  """Lines of the table of one data set."""
  lines, dataset = [], tables.escape(content.dataset)
  for panel in content.panels:
    lines += [f"## {dataset}, victim {tables.escape(panel.victim)}", "", _accuracies(panel), ""]
    lines += [content.legend, "", tables.markdown(*arena.gap_table(panel)), ""]
    lines += [tables.escape(panel.gap_legend), ""]
    if panel.explanations:
      rows = arena_explanations.correlations(panel.explanations)
      lines += ["### What goes with the accuracy gap", ""]
      lines += [tables.markdown(arena_explanations.COLUMNS, rows), "", arena_explanations.LEGEND]
      lines += ["", tables.markdown(*arena_explanations.values(panel.explanations)), ""]
      lines += [arena_explanations.VALUES_LEGEND, ""]
  if content.charts:
    lines += [f"## {dataset}, over the victims", ""]
    for chart in content.charts:
      lines += [tables.markdown(*arena_curves.table(chart)), ""]
      lines += [f"{tables.escape(chart.title)}: {chart.up}, without a defence.", ""]
  if content.notes:
    lines += [*(f"- {tables.escape(note)}" for note in content.notes), ""]
  if content.facts:
    lines += [f"## {dataset}, the poisons", "", tables.markdown(arena.FACT_COLUMNS, content.facts)]
    lines += ["", arena.FACT_LEGEND, ""]
  return lines


def _accuracies(panel: arena.Panel) -> str:
  """The accuracies of one victim, the strongest poisons in bold, as Markdown."""
  columns = [("method", False), *((defence, True) for defence in panel.defences)]
  cells = [
    [
      method,
      *(
        f"**{arena.accuracy(line[defence])}**"
        if line[defence].strongest
        else arena.accuracy(line[defence])
        for defence in panel.defences
      ),
    ]
    for method, line in panel.entries.items()
  ]
  return tables.markdown(columns, cells)
