"""Groups pictures without labels, so that there are classes to protect.

A small network learns to tell how a picture was rotated (Gidaris et al., "Unsupervised
Representation Learning by Predicting Image Rotations", 2018), and k-means groups its features.
"""

import dataclasses

import numpy as np
from sklearn.cluster import KMeans

from miue_jax import models
from miue_jax.data.dataset import Split
from miue_jax.data.images import Images
from miue_jax.experiment import calls
from miue_jax.machine import archives, files, sharding
from miue_jax.machine.checkpoint import Checkpoints
from miue_jax.owner.load import Loaded
from miue_jax.owner.private import Private
from miue_jax.pictures.survey import Survey
from miue_jax.settings.config import Fit, Model
from miue_jax.settings.errors import UserError
from miue_jax.train import fit, prediction, pretrained, step

_TURNS = 4  # of 90 degrees
_NETWORK = Model(name="small_cnn", width=24, normalise="none")
_PASSES = 20_000  # rotated pictures that the network sees, approximately
_EPOCHS = 4, 30  # least and most
_TEST = 64  # pictures for the learning curve
_STARTS = 10  # of k-means


def names(count: int) -> tuple[str, ...]:
  """Returns the names of `count` groups."""
  return tuple(f"group {number + 1}" for number in range(count))


def counts(found: Survey, groups: int) -> dict[str, int]:
  """Returns the number of pictures in each class, or an equal number for each of `groups` groups.

  Raises:
    UserError: There are fewer than two pictures for each group.
  """
  if not groups:
    return found.counts()
  if len(found.pictures) < 2 * groups:
    raise UserError(
      f"--clusters {groups}: {len(found.pictures)} pictures are too few; make fewer groups."
    )
  return dict.fromkeys(names(groups), len(found.pictures) // groups)


def grouped(
  store: Private, loaded: Loaded, count: int, seed: int, *, published: bool = False
) -> Loaded:
  """Returns pictures whose classes are groups; new pictures join the groups of the first ones.

  Args:
    store: The private folder, which keeps network and centres.
    loaded: The pictures.
    count: Number of groups.
    seed: Seed of network and k-means.
    published: Whether pictures were published before, so that their groups must be there.

  Raises:
    UserError: There are fewer than two pictures for each group, or the private folder is damaged or
      lost.
  """
  advice = "put back the private folder, or protect into a new folder"
  lost = UserError(f"{store.root} does not hold the groups of these pictures: {advice}.")
  if not files.exists(store.centres):
    if published:
      raise lost
    if len(loaded.pictures) < 2 * count:
      raise UserError(
        f"{len(loaded.pictures)} pictures are too few for {count} groups: lower --clusters."
      )
    learned = _learned(store, loaded.small, seed)
    pretrained.save(learned, store.rotations)
    found = KMeans(count, n_init=_STARTS, random_state=seed).fit(_features(store, loaded.small))
    with files.replacing(store.centres) as file:
      np.savez(file, centres=found.cluster_centers_.astype(np.float32))
  centres = archives.Archive(store.centres, advice)["centres"]
  features = _features(store, loaded.small) if files.exists(store.rotations) else None
  if (
    features is None
    or centres.shape != (count, features.shape[1])
    or not np.issubdtype(centres.dtype, np.floating)
  ):
    raise lost
  distances = np.square(features[:, None] - centres).sum(axis=2)
  groups = names(count)
  pictures = tuple(
    dataclasses.replace(found, class_name=groups[number])
    for found, number in zip(loaded.pictures, distances.argmin(axis=1), strict=True)
  )
  return dataclasses.replace(loaded, pictures=pictures)


def rotated(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns images `[N, s, s, C]` in four rotations, `[4 N, s, s, C]`, and the turns `[4 N]`."""
  turned = [np.rot90(images, turns, axes=(1, 2)) for turns in range(_TURNS)]
  return np.concatenate(turned), np.repeat(np.arange(_TURNS, dtype=np.int32), len(images))


def _learned(store: Private, small: np.ndarray, seed: int):
  images, turns = rotated(small)
  least, most = _EPOCHS
  recipe = Fit(
    batch_size=64 if len(images) >= 256 else 8,
    weight_decay=5e-4,
    augment="crop",
    epochs=min(max(least, _PASSES // len(images)), most),
  )
  order = np.random.default_rng(seed).permutation(len(images))
  train = Split(Images(images[order]), turns[order])
  with calls.on_devices(recipe.batch_size):
    fitted = fit.fit(
      models.build(_NETWORK, _TURNS, images.shape[1:]),
      recipe,
      train,
      train.take(np.arange(min(_TEST, len(train)))),
      seed=seed,
      name="groups",
      checkpoints=Checkpoints(store.checkpoints / "groups"),
      progress=calls.reporter(),
    )
    return sharding.fetch(fitted.state.variables)


def _features(store: Private, small: np.ndarray) -> np.ndarray:
  """Returns features float32 `[N, d]`."""
  module = models.build(_NETWORK, _TURNS, small.shape[1:])
  variables = pretrained.load(store.rotations)
  with calls.on_devices(8):
    state = sharding.replicate(step.State(variables["params"], variables["batch_stats"], ()))
    features, _ = prediction.predict(module, state, Images(small))
  return features
