"""Tests the loop of bi-level methods: budget, choice of images, checkpoints."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SEED, uneven_dataset

from miue_jax import objectives
from miue_jax.machine import cpu, loops, prng, sharding, signals
from miue_jax.methods import Alternating, AlternatingSettings, miue
from miue_jax.settings.config import Model, Sgd
from miue_jax.settings.errors import UserError
from miue_jax.train import lanes, loop

pytestmark = pytest.mark.usefixtures("quick_compiler")

COUNT, CLASSES, BATCH = 22, 3, 16
# Steps, augmentation and the kind of delta decide what is compiled: most tests share it.
SETTINGS = AlternatingSettings(
  model=Model(name="tiny"),
  source=Sgd(batch_size=8),
  epochs=2,
  batch_size=BATCH,
  steps=2,
  step_size_start=3.3 / 255,
  step_size_end=2.7 / 255,
  augment="crop",
  augment_poisoned=True,
  checkpoint_every=1,
)
SOURCE_STEPS = COUNT // 8
DELTA_STEPS = -(-COUNT // BATCH) * SETTINGS.steps
EPOCH = SOURCE_STEPS + DELTA_STEPS


DATASET = uneven_dataset(COUNT)


def error_minimising(features, logits, labels, weights, settings):
  del features, weights, settings
  return objectives.cross_entropy(logits, labels)


@pytest.fixture
def generate(runs):
  """Returns `generate(...)`, which generates a perturbation, by default on two devices."""
  run = runs(DATASET, SETTINGS)

  def made(folder="run", loss=error_minimising, **changes):
    return run(folder, method=Alternating(AlternatingSettings, objective=loss), **changes)[0]

  return made


def poisoned(made):
  return DATASET.train.images[:].astype(int) + made.delta


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {"epsilon": 2 / 255},
    {"epsilon": 2 / 255, "class_wise": True},
    {"epsilon": 2 / 255, "augment": "flip", "augment_poisoned": False},
    {"epsilon": 8.4 / 255, "step_size_start": 7 / 255},
  ],
)
def test_delta_keeps_the_budget_and_the_pixels_their_range(generate, changes):
  made = generate(**changes)
  assert made.delta.dtype == np.int8
  assert np.abs(made.delta).max() == round(255 * changes["epsilon"])
  assert poisoned(made).min() == 0
  assert poisoned(made).max() == 255
  assert made.perturbed is None


@pytest.mark.slow
def test_the_objective_falls(generate):
  history = generate().history
  # Error-minimising noise makes the images easy, for the source model as well.
  assert [len(values) for values in history.values()] == [2, 2, 2]
  assert history["objective"][1] < history["objective"][0]
  assert history["source_loss"][1] < history["source_loss"][0]


@pytest.mark.slow
def test_the_source_model_sees_the_poison(generate):
  # Without a delta to learn from, the source model has another loss in the second epoch.
  small, large = (generate(f"{s}", step_size_start=s, step_size_end=s) for s in (1e-9, 8 / 255))
  assert small.history["source_loss"][0] == large.history["source_loss"][0]
  assert small.history["source_loss"][1] > large.history["source_loss"][1]
  assert not small.delta.any()


@pytest.mark.slow
def test_a_class_has_one_pattern_up_to_clipping(generate):
  made, images, labels = generate(class_wise=True), DATASET.train.images, DATASET.train.labels
  patterns = []
  for label in range(CLASSES):
    delta, clean = made.delta[labels == label], images[labels == label].astype(int)
    inside = (clean >= 8) & (clean <= 247)
    # Images that are far from black and white show the pattern; the others clip it.
    shown = np.take_along_axis(delta, inside.argmax(0)[None], axis=0)[0]
    known = inside.any(0)
    clipped = np.clip(clean + shown, 0, 255) - clean
    np.testing.assert_array_equal(delta[:, known], clipped[:, known])
    patterns.append(shown)
  assert all((patterns[0] != other).any() for other in patterns[1:])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"fraction": 0.5}, {"only_class": 1}])
@pytest.mark.parametrize("class_wise", [False, True])
def test_only_the_chosen_images_change_and_they_are_named(generate, changes, class_wise):
  made, labels = generate(class_wise=class_wise, **changes), DATASET.train.labels
  changed = np.flatnonzero(made.delta.any(axis=(1, 2, 3)))
  np.testing.assert_array_equal(made.perturbed, changed)
  if "fraction" in changes:
    assert len(changed) == COUNT // 2
    # The choice is stratified over classes of 5, 5 and 12 images.
    counts = np.bincount(labels[changed])
    assert np.abs(counts - np.array([2.5, 2.5, 6])).max() <= 0.5
  else:
    np.testing.assert_array_equal(changed, np.flatnonzero(labels == 1))


@pytest.mark.slow
@pytest.mark.parametrize("class_wise", [False, True])
def test_noise_to_start_from_stays_where_steps_are_tiny(generate, class_wise):
  made = generate(init="random", class_wise=class_wise, step_size_start=1e-9, step_size_end=1e-9)
  # The noise is uniform in [-8, 8] levels; away from black and white nothing is clipped.
  inside = (DATASET.train.images[:] >= 8) & (DATASET.train.images[:] <= 247)
  assert 6 < np.abs(made.delta[inside]).max() <= 8
  assert 3 < np.abs(made.delta[inside]).mean() < 5  # expected 4


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"fraction": 0.5}])
def test_padding_rows_are_never_perturbed(generate, monkeypatch, changes):
  tables = []
  fetch = lanes.Layout.fetch

  def record(layout, tree, work, shape):
    tables.append((layout.ids, work(sharding.fetch(tree))))
    return fetch(layout, tree, work, shape)

  monkeypatch.setattr(lanes.Layout, "fetch", record)
  made = generate(**changes)
  ((ids, table),) = tables
  padding = ids == lanes.EMPTY
  assert padding.sum() == 10
  assert not table[padding].any()
  chosen = np.arange(COUNT) if made.perturbed is None else made.perturbed
  assert (table.any(axis=(1, 2, 3)) == np.isin(ids, chosen)).all()


@pytest.mark.long
def test_padding_and_balance_weigh_as_stated(generate):
  # An objective that is the label of each row shows the mean that is minimised.
  def label_itself(features, logits, labels, weights, settings):
    del features, weights, settings
    # It depends on the input, so that it has a gradient, and yet it is the label.
    return labels + 0 * logits[:, 0]

  labels = DATASET.train.labels
  plain = generate("plain", loss=label_itself)
  layout = lanes.lay_out(COUNT, (8, BATCH), SEED)
  order = lanes.shuffle(prng.stream(SEED, "delta", 1), layout.ids, BATCH)
  batches = [labels[ids[ids >= 0]] for ids in layout.ids[np.asarray(order).T[:2]]]
  assert [len(batch) for batch in batches] == [16, 6]
  expected = np.mean([batch.mean() for batch in batches])
  assert plain.history["objective"][0] == pytest.approx(expected, rel=1e-5)
  balanced = generate("balanced", loss=label_itself, balanced=True)
  expected = np.mean([np.unique(batch).mean() for batch in batches])
  assert balanced.history["objective"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_truncation_stores_the_level_below(generate):
  nearest, truncated = (
    generate(rounding, rounding=rounding) for rounding in ("nearest", "truncate")
  )
  assert nearest.history == truncated.history
  difference = poisoned(nearest) - poisoned(truncated)
  # The same delta is rounded in two ways; about half of the fractions are above one half.
  assert set(np.unique(difference)) == {0, 1}
  assert 0.2 < difference.mean() < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("class_wise", [False, True])
def test_an_epoch_transfers_only_what_it_asks_for_and_later_ones_compile_nothing(
  generate, no_transfers, epoch_reporter, class_wise
):
  progress, compiled = epoch_reporter
  # The first checkpoint compiles functions that slice arrays, after the last report.
  generate(reporter=progress, class_wise=class_wise, epochs=3, checkpoint_every=3)
  assert len(compiled) == 3
  assert compiled[0] > 0
  assert compiled[1] == compiled[2] == compiled[0]


STOPS = {
  "inside the passes": (1, SOURCE_STEPS + 3, EPOCH + 1),
  "between them": (SOURCE_STEPS, EPOCH, EPOCH + SOURCE_STEPS),
  "too late": (2 * EPOCH,),
}


@pytest.mark.slow
@pytest.mark.parametrize("class_wise", [False, pytest.param(True, marks=pytest.mark.long)])
def test_an_interrupted_run_ends_in_the_same_bytes(generate, class_wise):
  expected = generate("whole", class_wise=class_wise)
  for name, steps in STOPS.items():
    for step in steps:
      with pytest.raises(signals.Interrupted, match="SIGTERM"):
        generate(name, stop_at=step, class_wise=class_wise)
    resumed = generate(name, class_wise=class_wise)
    assert resumed.delta.tobytes() == expected.delta.tobytes()
    assert resumed.history == expected.history


def test_a_finished_run_is_not_repeated(generate):
  expected, again = generate(), generate()
  assert again.delta.tobytes() == expected.delta.tobytes()
  assert again.seconds == expected.seconds


@pytest.mark.long
def test_the_loop_on_the_device_makes_the_same_delta(generate, monkeypatch):
  expected, repeated = generate("python"), loops.repeated

  def repeated_on_device(step):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(cpu, "in_use", lambda: False)
      return repeated(step)

  monkeypatch.setattr(loops, "repeated", repeated_on_device)
  monkeypatch.setattr(loops, "_CHUNK", 3)
  made = generate("device")
  assert np.mean(made.delta == expected.delta) >= 0.995
  np.testing.assert_allclose(made.history["objective"], expected.history["objective"], rtol=1e-4)
  # A signal ends the run after the current chunk, and the run continues from there.
  with pytest.raises(signals.Interrupted):
    generate("parts", stop_at=SOURCE_STEPS + 3)
  assert generate("parts").delta.tobytes() == made.delta.tobytes()


@pytest.mark.long
def test_a_batch_in_parts_makes_the_same_delta(generate):
  # The objective of MI-UE compares the images of a whole batch.
  settings = miue.Settings()

  def loss(features, logits, labels, weights, _):
    return miue.objective(features, logits, labels, weights, settings)

  whole = generate("whole", loss=loss, draws=2)
  parts = generate("parts", loss=loss, draws=2, microbatch=4)
  assert parts.history["objective"] == pytest.approx(whole.history["objective"], rel=1e-5)
  # The order of summation changes signs near zero.
  assert np.mean(parts.delta != whole.delta) < 0.01


@pytest.mark.slow
def test_the_seed_decides(generate):
  first, same = generate("first"), generate("same")
  other = generate("other", seed=6)
  assert first.delta.tobytes() == same.delta.tobytes()
  assert (first.delta != other.delta).any()


def test_an_objective_that_is_not_finite_is_an_error_with_its_step(generate):
  def bad(*arguments):
    return error_minimising(*arguments) + jnp.nan

  with pytest.raises(UserError, match="loss of delta, epoch 1 is not finite at step 0"):
    generate(loss=bad)


def test_a_source_loss_that_is_not_finite_is_an_error_with_its_step(generate):
  with pytest.raises(UserError, match="loss of the source model, epoch 1 is not finite at step 1"):
    generate(source=Sgd(batch_size=8, learning_rate=3e38))


def test_fewer_images_than_a_source_batch_is_an_error(generate):
  with pytest.raises(UserError, match="7 training images do not fill one source batch of 8"):
    generate(dataset=uneven_dataset(7))


def test_a_budget_in_another_norm_is_an_error(generate):
  with pytest.raises(UserError, match="Unknown setting norm"):
    generate(norm="l2")


@pytest.mark.slow
@pytest.mark.parametrize(("source_steps", "expected"), [(0, 2), (1, 1), (9, 2)])
def test_source_training_and_sign_steps_alternate(generate, monkeypatch, source_steps, expected):
  driven, drive = [], loop.drive

  def record(state, segments, **options):
    driven.extend(segments)
    return drive(state, segments, **options)

  monkeypatch.setattr(loop, "drive", record)
  generate(source_steps=source_steps, epochs=3)
  assert [segment.epoch for segment in driven] == [1, 1, 2, 2, 3, 3]
  # 22 images: whole batches of 8 for the source model, padded ones of 16 for delta, 2 steps each.
  assert [segment.steps for segment in driven] == 3 * [expected, 4]


@pytest.mark.slow
def test_fewer_source_steps_learn_less(generate):
  # One batch of two is the first batch of the same pass, so that its mean loss differs.
  whole, part = (generate(f"{n}", source_steps=n, epochs=1) for n in (0, 1))
  assert part.history["source_accuracy"][0] * 8 / 100 % 1 == 0  # of 8 images
  assert part.history["source_loss"] != whole.history["source_loss"]
