"""The arena's tables as a document."""

from miue_jax.report import arena, arena_curves, arena_explanations, tables


def markdown(content: arena.Content, command: str) -> str:
  """The tables as a document."""
  lines = [f"# {tables.escape(content.title)}", ""]
  for panel in content.panels:
    lines += [f"## Victim {tables.escape(panel.victim)}", "", _accuracies(panel), ""]
    lines += [content.legend, "", tables.markdown(*arena.gap_table(panel)), ""]
    lines += [tables.escape(panel.gap_legend), ""]
    if panel.explanations:
      rows = arena_explanations.correlations(panel.explanations)
      lines += ["### What goes with the accuracy gap", ""]
      lines += [tables.markdown(arena_explanations.COLUMNS, rows), "", arena_explanations.LEGEND]
      lines += ["", tables.markdown(*arena_explanations.values(panel.explanations)), ""]
      lines += [arena_explanations.VALUES_LEGEND, ""]
  if content.charts:
    lines += ["## Over the victims", ""]
    for chart in content.charts:
      lines += [tables.markdown(*arena_curves.table(chart)), ""]
      lines += [f"{tables.escape(chart.title)}: {chart.up}, without a defence.", ""]
  if content.notes:
    lines += [*(f"- {tables.escape(note)}" for note in content.notes), ""]
  if content.facts:
    lines += ["## The poisons", "", tables.markdown(arena.FACT_COLUMNS, content.facts), ""]
    lines += [arena.FACT_LEGEND, ""]
  lines += ["## How it was made", "", *(f"    {line}" for line in command.splitlines())]
  return "\n".join(lines) + "\n"


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
