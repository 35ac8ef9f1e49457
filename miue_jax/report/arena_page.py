"""The arena's tables as one self-contained HTML page with heat maps."""

from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.report import arena, arena_curves, arena_explanations, arena_figures, page


def html(contents: Sequence[arena.Content], config: Mapping[str, Any], command: str) -> str:
  """The page of all tables."""
  return page.rendered(
    "compare.html.jinja",
    title=arena.title(contents),
    side_by_side=arena.side_by_side(contents) if len(contents) > 1 else None,
    tables=[(content, *_drawn(content, f"{i}")) for i, content in enumerate(contents)],
    accuracy=arena.accuracy,
    gap_table=arena.gap_table,
    explanations=arena_explanations,
    victim_table=arena_curves.table,
    text=arena,
    command=command,
    config=page.sections(config),
  )


def _drawn(
  content: arena.Content, name: str
) -> tuple[list[tuple[arena.Panel, str | None, str | None]], str | None]:
  """Panels with their pictures, and the picture over victims; `name` sets their ids apart."""
  panels = [
    (
      panel,
      _picture(panel, f"heat-{name}-{i}"),
      arena_figures.line_charts(panel.charts, f"curves-{name}-{i}"),
    )
    for i, panel in enumerate(content.panels)
  ]
  return panels, arena_figures.line_charts(content.charts, f"victims-{name}")


def _picture(panel: arena.Panel, name: str) -> str | None:
  framed = [
    (y, x)
    for y, line in enumerate(panel.entries.values())
    for x, defence in enumerate(panel.defences)
    if line[defence].strongest
  ]
  return arena_figures.heat_map(
    arena.heat(panel), list(panel.entries), list(panel.defences), framed, name
  )
