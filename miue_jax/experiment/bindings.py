"""Ties each stage of a workdir to what it used, so that results of different settings never mix.

A poison is bound to its images, method, source model and seed; victims also to their network and
training and to the test images; a measurement also to its own settings. Nothing is bound to paths,
devices, memory, microbatches and the interval of checkpoints, and a stage that made nothing is not
bound.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.data.dataset import Dataset
from miue_jax.experiment.workdir import Experiment, Workdir, stored_in
from miue_jax.machine import documents, files, processes, reading
from miue_jax.settings.config import Config
from miue_jax.settings.errors import UserError
from miue_jax.settings.schema import flat, short

_TRAINING, _TEST = "training images", "test images"
_VICTIM = ("victim.", "victim_fit.", "evaluate.clean_fraction", "data.seed")
_POISON = ("method.", "seed", "measure.epochs")
# Settings by stage: names, or beginnings that end with a dot.
_USED = {
  "generate": _POISON,
  "evaluate": (*_POISON, *_VICTIM),
  "measure": (*_POISON, *_VICTIM, "measure.", "evaluate.conditions", "evaluate.seeds"),
  "pretrain": (*_VICTIM, "victim.name", "evaluate.seeds"),
  "compare": (*_VICTIM, "measure.", "compare.poison_per_seed"),
  "set": (),  # a set of training images that a caller names
}
# They are columns of each row, or change how something is computed but not what.
_FREE = ("victim.name", "measure.epochs")
_NEUTRAL = ("microbatch", "checkpoint_every")
# What a stage leaves, relative to the workdir.
_MADE = {
  "generate": ("poison/manifest.json", "checkpoints/generate"),
  "evaluate": ("results.jsonl", "checkpoints/victims"),
  "measure": ("measurement.json",),
  "pretrain": ("checkpoints/pretrain", "pretrained.npz"),
  "compare": ("results.jsonl", "checkpoints/victims"),
  "set": ("config.json",),
}


def fingerprints(dataset: Dataset) -> dict[str, str]:
  """Returns the fingerprints of training and test images, by these names."""
  found = {_TRAINING: dataset.fingerprint}
  if dataset.test is not None:
    found[_TEST] = dataclasses.replace(dataset, train=dataset.test).fingerprint
  return found


def _used(stage: str, config: Config, images: Mapping[str, str]) -> dict[str, Any]:
  """Returns the settings that a stage uses, by dotted names, and the fingerprints of its images."""
  found = _selected(stage, flat(_plain(config)))
  if start := found.get("victim_fit.start_from"):
    with reading.opened(start) as file:
      digest: Any = hashlib.file_digest(file, "sha256")  # pyrefly: ignore[no-matching-overload]
      found["victim_fit.start_from"] = digest.hexdigest()
  wanted = (_TRAINING,) if stage == "generate" else (_TRAINING, _TEST)
  return found | {name: images[name] for name in wanted if name in images}


def _selected(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
  names = _USED[stage]
  found = {
    key: value
    for key, value in values.items()
    if (key in names or any(key.startswith(name) for name in names if name.endswith(".")))
    and (key in names or key not in _FREE)
    and key.rpartition(".")[2] not in _NEUTRAL
  }
  if "evaluate.seeds" in found:  # The victims of the first seed are measured.
    found["evaluate.seeds"] = found["evaluate.seeds"][:1]
  return found


def check(experiment: Experiment, images: Mapping[str, str], stages: Sequence[str]) -> None:
  """Checks that finished or begun stages used the same settings and images.

  Args:
    experiment: The settings, the folder, and the data, whose name is for messages.
    images: Fingerprints of the images, by their names in messages.
    stages: The stages.

  Raises:
    UserError: They did not; the message names every difference. Or the images differ between
      processes.
  """
  processes.require_same(
    {f"the {key}": value for key, value in images.items()},
    "give all processes the same files and data settings",
  )
  workdir, config = experiment.workdir, experiment.config
  differing: dict[str, tuple[Any, Any]] = {}
  refusing: set[str] = set()
  for stage in stages:
    if (old := workdir.on_lead(lambda stage=stage: _bound(workdir, config, stage))) is None:
      continue
    new = _used(stage, config, images)
    changed = {key for key in old if key in new and old[key] != new[key]}
    differing |= {key: (old[key], new[key]) for key in changed}
    refusing |= {stage} if changed else set()
  if not differing:
    return
  parts = [key for key in (_TRAINING, _TEST) if differing.pop(key, None)]
  if parts:
    differing |= workdir.on_lead(lambda: _changed_data(workdir, config))
  if parts and not differing:
    raise UserError(
      f"The {' and '.join(parts)} of {experiment.dataset.name} changed since {workdir.root} was "
      "made: put them back, or choose another --workdir."
    )
  shown = ", ".join(
    f"{key} ({short(old)} there, {short(new)} here)"
    for key, (old, new) in sorted(differing.items())
  )
  again = ""
  if refusing == {"measure"}:
    again = f", or remove {workdir.measurement.name} to measure again"
  raise UserError(
    f"{workdir.root} was made with other settings: {shown}. Choose another --workdir, or use "
    f"the settings of this one{again}."
  )


def _bound(workdir: Workdir, config: Config, stage: str) -> dict[str, Any] | None:
  """Returns what a stage used, or None if it has made nothing."""
  if not any(files.exists(workdir.root / name) for name in _MADE[stage]):
    return None
  stored = stored_in(workdir) or {}
  known = stored.get("stages", {}).get(stage)
  if known is None:
    origin = stored
    if stage == "generate":
      origin = _manifest(workdir) or stored
    settings = origin.get("config")
    if not isinstance(settings, dict) or not settings:
      return {}
    known = _selected(stage, flat(settings)) | {_TRAINING: origin.get("fingerprint")}
    known.pop("victim_fit.start_from", None)  # a path, not its content
  # A key that was added later had its default value.
  default = dataclasses.replace(Config(), method=type(config.method)())
  return _selected(stage, flat(_plain(default))) | known


def _manifest(workdir: Workdir) -> dict[str, Any] | None:
  """Returns the manifest of the poison, or None without a poison."""
  path = workdir.poison / "manifest.json"
  return documents.read_json(path, "copy it again") if files.exists(path) else None


def _plain(settings: Any) -> dict[str, Any]:
  """Returns settings as they are read from a JSON file: with lists in place of tuples."""
  return json.loads(json.dumps(dataclasses.asdict(settings)))


def _changed_data(workdir: Workdir, config: Config) -> dict[str, tuple[Any, Any]]:
  """Returns the settings that explain why the images differ, each with both values."""
  stored = stored_in(workdir) or _manifest(workdir) or {}
  old = stored.get("config", {}).get("data", {})
  new = _plain(config.data)
  kept = ("path", "memory", "name")
  changed = (key for key in new if key in old and key not in kept and old[key] != new[key])
  return {f"data.{key}": (old[key], new[key]) for key in changed}


def record(experiment: Experiment, images: Mapping[str, str], stages: Sequence[str]) -> None:
  """Stores the settings, and what some stages use, before their work begins.

  The arguments are those of `check`.

  Raises:
    UserError: The workdir cannot be written, or a process does not see it.
  """
  workdir, config = experiment.workdir, experiment.config

  def write() -> None:
    stored = stored_in(workdir) or {}
    content = {
      "config": dataclasses.asdict(config),
      "dataset": experiment.dataset.name,
      "fingerprint": next(iter(images.values())),
      "stages": stored.get("stages", {}) | {s: _used(s, config, images) for s in stages},
    }
    if json.loads(json.dumps(content)) != stored:
      files.make_folder(workdir.root)
      files.write_json(workdir.config, content)

  workdir.on_lead(write)
  if not files.exists(workdir.config):
    raise UserError(
      f"This process does not see what process 0 wrote to {workdir.root}: choose a --workdir on "
      "storage that all processes share."
    )


def named(workdir: Workdir, config: Config, dataset: Dataset) -> Dataset:
  """Returns the data under the name that they have in the workdir, unless the config names them.

  Rows contain the name of the dataset, by default that of its folder, which can be renamed.
  """
  stored = workdir.on_lead(lambda: stored_in(workdir)) or {}
  name = stored.get("dataset")
  same = stored.get("fingerprint") == dataset.fingerprint
  if config.data.name or not isinstance(name, str) or not same:
    return dataset
  return dataclasses.replace(dataset, name=name)
