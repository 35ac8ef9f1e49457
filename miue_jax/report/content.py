"""What the report says, once: the HTML page, report.md and report.json are three views of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from miue_jax.report import tables
from miue_jax.report import verdict as verdict_lib
from miue_jax.report.aggregate import Condition, Row, aggregate, finite
from miue_jax.report.course import Course, observed
from miue_jax.settings.errors import UserError

GAIN = 16  # of the perturbation in the pictures

NO_INFORMATION = "Mutual information has not been measured yet; mode 'measure' does that."
NO_EXAMPLES = "There are no example images yet; mode 'generate' makes the poison they show."
NO_CURVES = "These rows carry no learning curves; mode 'evaluate' records them."
INFORMATION_CAVEAT = (
  "The true mutual information of continuous features is infinite; these are estimates at a finite "
  "resolution, so values are comparable only with each other and only under this one setting."
)


@dataclasses.dataclass(frozen=True)
class Examples:
  """A few images before and after, to look at.

  Attributes:
    clean: uint8 `[k, H, W, C]`, C is 1 or 3.
    poisoned: uint8 `[k, H, W, C]`, the same images perturbed.
    captions: k names, one below each column.
  """

  clean: np.ndarray
  poisoned: np.ndarray
  captions: tuple[str, ...]

  def __post_init__(self) -> None:
    """Raises `UserError` where the images and captions do not match."""
    for images in (self.clean, self.poisoned):
      if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise UserError(
          f"Example images are {images.dtype} of shape {images.shape}; pass uint8 "
          "[k, H, W, 1 or 3]."
        )
    if self.clean.shape != self.poisoned.shape or len(self.captions) != len(self.clean):
      raise UserError(
        f"Examples do not match: clean {self.clean.shape}, poisoned {self.poisoned.shape}, "
        f"{len(self.captions)} captions; pass one poisoned image and one caption for "
        "each clean one."
      )


@dataclasses.dataclass(frozen=True)
class Content:
  """Everything but the pictures; `None` or empty where a stage has not run yet.

  Attributes:
    title: the page's heading.
    verdict: judgement, sentence and notes.
    conditions: the results over seeds.
    chance: percent; None when the number of classes is unknown.
    quality: `(name, value with unit)` pairs: how visible the perturbation is.
    measurement: settings and rows of the mutual-information estimate, or None.
    command: how the experiment was started.
    config: the settings as given.
    manifest: the poison's manifest, or empty.
    limits: what the results do not show.
  """

  title: str
  verdict: verdict_lib.Verdict
  conditions: list[Condition]
  chance: float | None
  quality: list[tuple[str, str]]
  measurement: Mapping[str, Any] | None
  command: str
  config: Mapping[str, Any]
  manifest: Mapping[str, Any]
  limits: tuple[str, ...]

  @property
  def information(self) -> list[Mapping[str, Any]]:
    """Rows of the measurement; empty when there is none."""
    return list((self.measurement or {}).get("rows") or ())

  @property
  def course(self) -> Course | None:
    """What was observed during generation; None when nothing was."""
    return observed(self.manifest.get("history"))

  @property
  def provenance(self) -> list[tuple[str, str]]:
    """The manifest as readable pairs; the config inside it would only be the same table again."""
    return tables.flatten({k: v for k, v in self.manifest.items() if k != "config"})


def gather(
  rows: list[Row],
  config: Mapping[str, Any],
  command: str,
  manifest: Mapping[str, Any] | None,
  measurement: Mapping[str, Any] | None,
) -> Content:
  """Turns what the stages left behind into what the report says.

  Raises:
    UserError: a row lacks one of the keys that identify it.
  """
  conditions = aggregate(rows)
  classes = verdict_lib.number_of_classes(rows, config, manifest)
  method = verdict_lib.protection_method(conditions, config, manifest)
  dataset = (manifest or {}).get("dataset") or (rows[0]["dataset"] if rows else config.get("name"))
  return Content(
    title=f"Can {dataset or 'this dataset'} still be learned?",
    verdict=verdict_lib.verdict(conditions, method, classes),
    conditions=conditions,
    chance=100 / classes if classes else None,
    quality=_quality(manifest or {}),
    measurement=measurement,
    command=command,
    config=config,
    manifest=manifest or {},
    limits=_limits(conditions),
  )


def _quality(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
  wanted = (
    ("budget", "epsilon_255ths", "{:.3g}/255"),
    ("largest change made", "max_delta_255ths", "{:.3g}/255"),
    ("PSNR", "psnr_db", "{:.1f} dB"),
    ("SSIM", "ssim", "{:.3f}"),
  )
  return [
    (name, form.format(manifest[key])) for name, key, form in wanted if finite(manifest.get(key))
  ]


def _limits(conditions: list[Condition]) -> tuple[str, ...]:
  victims = ", ".join(dict.fromkeys(c.victim for c in conditions)) or "none"
  defences = ", ".join(dict.fromkeys(c.defence for c in conditions if c.defence != "none"))
  return (
    f"Victims tested: {victims}. Another architecture, a larger one, a pretrained one or another "
    "training recipe may learn more.",
    f"Defences tested: {defences or 'none'}. JPEG compression, conversion to grayscale, "
    "purification (for example by diffusion) and adversarial training can each weaken a "
    "perturbation, at some cost to whoever uses them.",
    "Every image of the training set is assumed to be released only with its perturbation. Clean "
    "copies elsewhere, or clean images of the same classes, can be trained on.",
    "The numbers hold for these pixels. Resizing, re-encoding or cropping after release changes "
    "the perturbation and was not tested unless a defence above says so.",
    "A bound on the change of each pixel, PSNR and SSIM stand in for visibility; no person was "
    "asked.",
  )
