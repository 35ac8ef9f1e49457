"""The comparison's report, as far as its tables are filled."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from miue_jax import budget, report
from miue_jax.artefact import external
from miue_jax.experiment import cells, evaluate, explain
from miue_jax.experiment.stages import Experiment
from miue_jax.experiment.workdir import Workdir
from miue_jax.machine import files, memory, processes
from miue_jax.settings.config import Config


def write_report(config: Config, workdir: Workdir, experiments: Sequence[Experiment]) -> str:
  """Writes the tables of all data sets as far as they are filled; returns them as Markdown."""

  def write() -> str:
    results = [_results(experiment) for experiment in experiments]
    settings = dataclasses.asdict(config)
    found = report.Comparison(results, settings, experiments[0].command)
    report.write(workdir.report, found)
    return found.files["compare.md"]

  return processes.from_lead(write)


def _results(experiment: Experiment) -> report.Results:
  """Collects the results of the comparison on one data set."""
  config, workdir = experiment.config, experiment.workdir
  axes = report.Axes(
    dataset=experiment.dataset.name,
    methods=cells.names_of(config),
    victims=tuple(
      evaluate.victim_name(name, config.victim_fit) for name in cells.victims_of(config)
    ),
    seeds={defence: cells.seeds_of(config, defence) for defence in config.compare.defences},
  )
  facts = {}
  for name in axes.methods[1:]:
    seed = config.seed if name in external.parse(config.compare.external) else None
    facts[name] = _facts(experiment, name, seed)
  rows = evaluate.read(workdir.results)
  measurements = evaluate.read(cells.measurements(workdir))
  return report.Results(
    axes,
    rows,
    lost=evaluate.read(cells.losses(workdir)),
    measurements=measurements,
    explanations=explain.by_victim(axes, rows, measurements),
    facts=facts,
    published=config.compare.published,
  )


def _facts(experiment: Experiment, name: str, seed: int | None) -> dict[str, Any]:
  """What the poisons of a method cost and change; empty before the first one is made."""
  config = experiment.config
  found = []
  for number in (seed,) if seed is not None else cells.poison_seeds(config):
    workdir = cells.generation(experiment, name, number).workdir
    path = workdir.poison / "manifest.json"
    if path.exists():
      found.append((files.read_json(path), memory.read(workdir.root / "memory.json")))
  if not found:
    return {}
  manifests = [manifest for manifest, _ in found]
  first, limit = manifests[0], budget.budget(config.method.epsilon)
  made = bool(first["config"])  # an external poison has no settings
  largest = max(manifest["max_delta_255ths"] for manifest in manifests)
  return {
    "seconds": [manifest["seconds"] for manifest in manifests] if made else [],
    "peak_memory_bytes": max((m for _, m in found if m is not None), default=None),
    "max_delta_255ths": largest,
    "beyond": largest > limit,
    "budget": first.get("budget", f"{first['epsilon_255ths']:g}/255"),
    "psnr_db": first["psnr_db"],
    "ssim": first["ssim"],
    "settings": {"method": first["config"]["method"]} if made else None,
  }
