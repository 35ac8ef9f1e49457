"""One poison, or the best of several trials."""

import dataclasses

import numpy as np
import pytest

from miue_jax import evaluate, generation, perturb, runtime
from miue_jax import poison as artefact
from miue_jax.config import Config, Method
from miue_jax.data.dataset import Dataset, Split
from miue_jax.errors import UserError
from miue_jax.methods import METHODS
from miue_jax.methods.generated import Generated
from miue_jax.workdir import Workdir

CLASSES, COUNT = 2, 40
JUDGED = 3 * ("judged",)
# Mean of the surrogate victims, trial by trial.
AREAS = [0.9, 0.8, 0.1, 0.7, 0.49, 0.5]


def make_dataset(labels=None):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (COUNT, 4, 4, 1)).astype(np.uint8)
  labels = np.arange(COUNT) % CLASSES if labels is None else labels
  return Dataset("tiny", Split(images, labels.astype(np.int32)), None, ("a", "b"))


DATASET = make_dataset()
CONFIG = Config(seed=7, method=Method(name="noise", trials=6))


@pytest.fixture
def calls(monkeypatch):
  """What was done, in order; the method is noise by its seed, the surrogate answers by `AREAS`."""
  done = []

  def noise(dataset, config, checkpoints, progress):
    del checkpoints, progress
    done.append(config.seed)
    delta = perturb.random_noise(dataset.train.images, config.method.epsilon, config.seed)
    return Generated(delta, 1.5, None, {"loss": [0.5]})

  def trained(train, dataset, config, defence, *, seed, **others):
    del defence, others
    done.append("judged")
    clean = {image.tobytes() for image in DATASET.train.images}
    # It learns from poisoned images and is judged on clean ones that it has not seen.
    assert all(image.tobytes() in clean for image in dataset.test.images)
    assert not any(image.tobytes() in clean for image in train.images)
    assert (len(train), len(dataset.test)) == (COUNT - COUNT // 10, COUNT // 10)
    assert seed not in config.evaluate.seeds
    # The surrogates of a trial differ by 0.01.
    trial, number = divmod(done.count("judged") - 1, 3)
    return {"auc": AREAS[trial] + 0.01 * (number - 1), "seconds": 1.0}

  monkeypatch.setitem(METHODS, "noise", noise)
  monkeypatch.setattr(evaluate, "trained", trained)
  return done


def noise_of(seed):
  return perturb.random_noise(DATASET.train.images, CONFIG.method.epsilon, seed)


def mixture(first, second, share):
  """Of two realised perturbations, cut to the budget and to what a pixel can hold; not rounded."""
  clean = DATASET.train.images.astype(int)
  total = np.clip(2 * (share * first + (1 - share) * second), -8, 8)
  return np.clip(clean + total, 0, 255) - clean


def test_one_poison_asks_no_surrogate(calls, tmp_path):
  config = dataclasses.replace(CONFIG, method=Method(name="noise"))
  generation.generate(DATASET, config, Workdir(tmp_path), None)
  assert calls == [7]
  poison = artefact.load(tmp_path / "poison", DATASET)
  np.testing.assert_array_equal(poison.delta, noise_of(7))
  assert "trials" not in poison.manifest
  assert poison.manifest["seconds"] == 1.5
  assert poison.manifest["history"] == {"loss": [0.5]}


def test_seeds_until_both_sides_of_chance_are_seen_then_mixtures(calls, tmp_path):
  generation.generate(DATASET, CONFIG, Workdir(tmp_path), None)
  # 0.49 is near enough: the sixth trial is not made.
  assert calls == [7, *JUDGED, 8, *JUDGED, 9, *JUDGED, *JUDGED, *JUDGED]
  # A half of the third is too little (0.7), three quarters are about right.
  poison = artefact.load(tmp_path / "poison", DATASET)
  expected = mixture(noise_of(9), noise_of(8), 0.75)
  np.testing.assert_allclose(poison.delta, expected, rtol=0, atol=0.501)
  trials = poison.manifest["trials"]
  assert [np.mean(trial["surrogate_auc"]) for trial in trials] == pytest.approx(AREAS[:5])
  assert [trial.get("seed") for trial in trials] == [7, 8, 9, None, None]
  assert [(trial["mixed"], trial["share"]) for trial in trials[3:]] == [
    ([2, 1], 0.5),
    ([2, 1], 0.75),
  ]
  assert poison.manifest["kept_trial"] == 4
  assert poison.manifest["seconds"] == 3 * 1.5 + 5 * 3.0
  assert not any((tmp_path / "checkpoints").iterdir())


def test_after_some_mixtures_another_seed_takes_the_place_of_one(calls, tmp_path, monkeypatch):
  monkeypatch.setitem(globals(), "AREAS", [0.9, 0.1, 0.7, 0.6, 0.4, 0.6, 0.2, 0.8])
  config = dataclasses.replace(CONFIG, method=Method(name="noise", trials=8))
  generation.generate(DATASET, config, Workdir(tmp_path), None)
  trials = artefact.load(tmp_path / "poison", DATASET).manifest["trials"]
  assert [trial.get("seed") for trial in trials] == [7, 8, *4 * [None], 9, None]
  assert [trial["share"] for trial in trials[2:6]] == [0.5, 0.75, 0.875, 0.8125]
  assert (trials[7]["mixed"], trials[7]["share"]) == ([6, 0], 0.5)


def test_surrogates_that_disagree_are_not_near_chance(calls, tmp_path, monkeypatch):
  complete = evaluate.trained

  def split(*args, **kwargs):
    # The first trial's surrogates rank 0.1, 0.5 and 0.9, the others' 0.4.
    row, number = complete(*args, **kwargs), calls.count("judged")
    return row | {"auc": (0.1, 0.5, 0.9)[number - 1] if number <= 3 else 0.4}

  monkeypatch.setattr(evaluate, "trained", split)
  config = dataclasses.replace(CONFIG, method=Method(name="noise", trials=2))
  generation.generate(DATASET, config, Workdir(tmp_path), None)
  assert artefact.load(tmp_path / "poison", DATASET).manifest["kept_trial"] == 1


def test_the_nearest_to_chance_is_kept_when_trials_run_out(calls, tmp_path):
  config = dataclasses.replace(CONFIG, method=Method(name="noise", trials=3))
  generation.generate(DATASET, config, Workdir(tmp_path), None)
  poison = artefact.load(tmp_path / "poison", DATASET)
  np.testing.assert_array_equal(poison.delta, noise_of(8))
  assert poison.manifest["kept_trial"] == 1
  assert poison.manifest["seed"] == 8


@pytest.mark.parametrize("judged", [3, 9, 12])
def test_what_is_finished_is_not_repeated(calls, tmp_path, monkeypatch, judged):
  complete = evaluate.trained

  def interrupted(*args, **kwargs):
    if calls.count("judged") == judged:  # the next trial is made, not judged
      raise runtime.Interrupted(15)
    return complete(*args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(evaluate, "trained", interrupted)
    with pytest.raises(runtime.Interrupted):
      generation.generate(DATASET, CONFIG, Workdir(tmp_path / "parts"), None)
  assert not (tmp_path / "parts" / "poison").exists()
  generation.generate(DATASET, CONFIG, Workdir(tmp_path / "parts"), None)
  assert calls == [7, *JUDGED, 8, *JUDGED, 9, *JUDGED, *JUDGED, *JUDGED]
  calls.clear()
  generation.generate(DATASET, CONFIG, Workdir(tmp_path / "whole"), None)
  whole, parts = (artefact.load(tmp_path / name / "poison") for name in ("whole", "parts"))
  np.testing.assert_array_equal(whole.delta, parts.delta)
  assert whole.manifest == parts.manifest


def test_images_too_few_to_judge_by(calls, tmp_path):
  rare = make_dataset(np.arange(COUNT) < 2)
  with pytest.raises(UserError, match=r"set method\.trials=1"):
    generation.generate(rare, CONFIG, Workdir(tmp_path), None)
  assert calls == [7]
