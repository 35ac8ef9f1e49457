"""Sizes and settings that the tests of plans share."""

import dataclasses

from miue_jax.methods import METHODS
from miue_jax.plan import sizes
from miue_jax.settings.config import Config, Data, Evaluate, Fit, Model, Sgd

CONFIG = Config(
  name="tiny",
  data=Data(source="npz"),
  method=METHODS["miue"].settings(
    model=Model(name="small_cnn", width=4),
    source=Sgd(batch_size=16),
    batch_size=32,
    epochs=3,
    steps=5,
  ),
  victim=Model(name="small_cnn", width=4),
  victim_fit=Fit(batch_size=8, epochs=7),
  evaluate=Evaluate(conditions=("clean", "poison"), seeds=(0, 1, 2)),
)
SIZES = sizes.Sizes((12, 12, 1), 100, 600, 4)
LINEAR = Model(name="linear")  # compiled in no time


def with_method(name="miue", config=CONFIG, **changes):
  """Returns `CONFIG` with settings of a method."""
  if name == config.method.name:
    return dataclasses.replace(config, method=dataclasses.replace(config.method, **changes))
  kind = METHODS[name].settings
  own = {field.name for field in dataclasses.fields(kind)}
  kept = ("model", "source", "batch_size", "epochs", "steps")
  shared = {key: getattr(config.method, key) for key in kept if key in own}
  return dataclasses.replace(config, method=kind(**(shared | changes)))


QUICK = dataclasses.replace(with_method(model=LINEAR), victim=LINEAR, devices=1)
