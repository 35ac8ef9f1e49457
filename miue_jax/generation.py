"""A poison from a method: one, or one that leaves a surrogate victim's ranking to chance."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import logging

from miue_jax import defences, evaluate, perturb, processes
from miue_jax import poison as artefact
from miue_jax import workdir as workdirs
from miue_jax.checkpoint import Checkpoints
from miue_jax.config import Config
from miue_jax.data.dataset import Dataset, Split
from miue_jax.data.pool import Draw, stratified
from miue_jax.errors import UserError
from miue_jax.methods import METHODS
from miue_jax.poison import Poison
from miue_jax.progress import Reporter
from miue_jax.workdir import Workdir

# Of the training images, kept from surrogate victims, which are judged on them.
_HELD_OUT = 0.1
# Of surrogate victims; they differ from those of the victims that a report shows.
_SURROGATE_SEEDS = (901, 902, 903)
# Trials end when their areas under the ROC curve are this near to 1/2, on average.
_NEAR = 0.05
# Mixtures of two poisons, before another seed takes the place of one.
_BISECTIONS = 4


def generate(dataset: Dataset, config: Config, workdir: Workdir, progress: Reporter) -> None:
  """Leaves a finished poison in the workdir, and nothing else.

  A victim that decides by chance may still rank clean images well, or well but the wrong way round:
  the area under its ROC curve (AUC) is luck, which the victims of one poison share. With
  `method.trials` surrogate victims learn from nine tenths of the poisoned images and are judged on
  the clean rest. Poisons of the seeds `seed`, `seed + 1`, ... are tried until mean AUCs lie on both
  sides of 1/2, then mixtures of one from either side, cut to the budget, whose shares are found by
  bisection; after some of these another seed. The one whose surrogates are nearest to 1/2 is kept.

  Args:
    dataset: only its training split is used.
    config: `method`, `model`, `source` and `seed`; with trials also `victim` and `victim_fit`.
    workdir: of the experiment; an interrupted run continues from what it finds in `checkpoints`.
    progress: makes the reporter of a stage.

  Raises:
    runtime.Interrupted: a signal came; the state is saved.
    UserError: what the method or a surrogate raises, or too few images to judge a trial.
  """
  states = workdir.checkpoints / "generate"
  if config.method.trials == 1:
    _make(dataset, config, workdir.poison, states, progress)
  else:
    _try(dataset, config, workdir.poison, states, progress)
  Checkpoints(states).delete()


def _try(
  dataset: Dataset,
  config: Config,
  folder: pathlib.Path,
  trials: pathlib.Path,
  progress: Reporter,
) -> None:
  """Makes trials until one is near enough to chance, or as many as are allowed; keeps the best."""
  found: list[dict[str, Any]] = []
  while len(found) < config.method.trials:
    number, plan = len(found), _next(found, config.seed)
    if "seed" in plan:
      one = dataclasses.replace(config, seed=plan["seed"])
      _make(dataset, one, trials / str(number), trials / f"{number}-states", progress)
    else:
      _mix(dataset, config, trials, number, plan)
    judged = _judged(dataset, config, trials, number, progress)
    found.append(plan | {f"surrogate_{key}": value for key, value in judged.items()})
    areas = ", ".join(f"{area:.3f}" for area in judged["auc"])
    logging.info("Trial %d of %d: AUC %s.", number + 1, config.method.trials, areas)
    if _distance(found[-1]) <= _NEAR:
      break
  kept = int(np.argmin([_distance(trial) for trial in found]))

  def keep() -> None:
    poisons = [artefact.load(trials / str(number), dataset) for number in range(len(found))]
    spent = sum(p.manifest["seconds"] for p in poisons) + sum(t["surrogate_seconds"] for t in found)
    said = {"trials": found, "kept_trial": kept, "seconds": round(spent, 1)}
    artefact.save(Poison(poisons[kept].delta, poisons[kept].manifest | said), folder)

  processes.from_lead(keep)


def _next(found: list[dict[str, Any]], seed: int) -> dict[str, Any]:
  """How the next trial is made: `seed`; or `mixed`, two trials, and the `share` of the first."""
  seeds = [number for number, trial in enumerate(found) if "seed" in trial]
  below, above = (
    [number for number in seeds if (_mean(found[number]) < 0.5) == side] for side in (True, False)
  )
  mixtures = found[seeds[-1] + 1 :] if seeds else []
  if not (below and above) or len(mixtures) == _BISECTIONS:
    return {"seed": seed + len(seeds)}
  least, most = 0.0, 1.0  # share of the one below 1/2 that leaves the AUC above it, and below it
  for trial in mixtures:
    if _mean(trial) < 0.5:
      most = trial["share"]
    else:
      least = trial["share"]
  return {"mixed": [below[-1], above[-1]], "share": (least + most) / 2}


def _mean(trial: dict[str, Any]) -> float:
  return float(np.mean(trial["surrogate_auc"]))


def _distance(trial: dict[str, Any]) -> float:
  """From chance, of the AUC of single surrogates: victims that disagree are no comfort."""
  return float(np.mean(np.abs(np.array(trial["surrogate_auc"]) - 0.5)))


def _make(
  dataset: Dataset,
  config: Config,
  folder: pathlib.Path,
  checkpoints: pathlib.Path,
  progress: Reporter,
) -> None:
  """Makes one poison, unless it is there."""
  if processes.from_lead((folder / "manifest.json").exists):
    return
  made = METHODS[config.method.name](dataset, config, Checkpoints(checkpoints), progress)
  extra: dict[str, Any] = {"history": made.history}
  if made.perturbed is not None:
    extra["perturbed"] = made.perturbed
  processes.from_lead(
    lambda: _keep(dataset, config, made.delta, round(made.seconds, 1), extra, folder)
  )


def _mix(
  dataset: Dataset, config: Config, trials: pathlib.Path, number: int, plan: dict[str, Any]
) -> None:
  """Makes a poison of two others, unless it is there."""

  def mix() -> None:
    folder = trials / str(number)
    if (folder / "manifest.json").exists():
      return
    first, second = (artefact.load(trials / str(n), dataset) for n in plan["mixed"])
    share = np.float32(plan["share"])
    # Twice the weighted mean: what two of full strength agree on keeps it.
    delta = 2 * (share * first.delta + (1 - share) * second.delta) / 255
    realised = perturb.realise(dataset.train.images[:], delta, config.method.epsilon)
    extra = {key: first.manifest[key] for key in ("perturbed",) if key in first.manifest}
    _keep(dataset, config, realised, 0.0, extra, folder)

  processes.from_lead(mix)


def _keep(
  dataset: Dataset,
  config: Config,
  delta: np.ndarray,
  seconds: float,
  extra: dict[str, Any],
  folder: pathlib.Path,
) -> None:
  """Turns a realised perturbation into the artefact on the disk."""
  method = config.method
  poison = artefact.make(
    dataset,
    delta,
    method=method.name,
    epsilon=method.epsilon,
    config=dataclasses.asdict(config),
    seed=config.seed,
    seconds=seconds,
    norm=method.norm,
    extra={"num_classes": dataset.num_classes} | extra,
  )
  artefact.save(poison, folder)
  logging.info(
    "Poison of %d images in %s: PSNR %s dB, SSIM %s, %.0f s.",
    len(dataset.train),
    folder,
    poison.manifest["psnr_db"],
    poison.manifest["ssim"],
    seconds,
  )


def _judged(
  dataset: Dataset, config: Config, trials: pathlib.Path, number: int, progress: Reporter
) -> dict[str, Any]:
  """`auc` of each surrogate victim (macro mean over classes) and `seconds` of all, of a trial."""
  path = trials / f"{number}.json"
  if processes.from_lead(path.exists):
    return processes.from_lead(lambda: workdirs.read_json(path))
  train, held = dataset.train, _held_out(dataset, config)
  poisoned = artefact.apply(artefact.load(trials / str(number), dataset), train.images)
  states = [Checkpoints(trials / f"{number}-surrogate-{seed}") for seed in _SURROGATE_SEEDS]
  rows = [
    evaluate.trained(
      Split(poisoned, train.labels).take(np.flatnonzero(~held)),
      dataclasses.replace(dataset, test=train.take(np.flatnonzero(held))),
      config,
      defences.build("none"),
      seed=seed,
      name=f"surrogate {seed} of trial {number + 1}",
      checkpoints=checkpoints,
      progress=progress,
    )
    for seed, checkpoints in zip(_SURROGATE_SEEDS, states, strict=True)
  ]
  judged = {
    "auc": [row["auc"] for row in rows],
    "seconds": sum(row["seconds"] for row in rows),
  }
  processes.from_lead(lambda: workdirs.write_json(path, judged))
  for checkpoints in states:
    checkpoints.delete()
  return judged


def _held_out(dataset: Dataset, config: Config) -> np.ndarray:
  """Which training images surrogates do not learn from but are judged on, bool `[N]`.

  Raises:
    UserError: some class has none among them.
  """
  labels = dataset.train.labels
  held = np.zeros(len(labels), bool)
  held[stratified(labels, round(_HELD_OUT * len(labels)), config.data.seed, Draw.JUDGED)] = True
  if len(np.unique(labels[held])) < dataset.num_classes:
    raise UserError(
      f"A tenth of {len(labels)} training images holds none of some class, so that trials cannot "
      "be judged: set method.trials=1."
    )
  return held
