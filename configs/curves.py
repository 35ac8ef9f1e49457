r"""How MI-UE fares as something is varied, on a prefix of CIFAR-10, sized for two CPU cores.

The comparison (configs/compare.py) with one method, over JPEG quality and the radius of adversarial
training (`defences`), and over the poisoning ratio and epsilon without a defence (`settings`). They
are two tables: in one, every recipe would meet every defence. The page has a drawing of each.

    python -m miue_jax.main --config=configs/curves.py:defences --config.data.path=FILE.npz \
        --workdir=runs/defences --mode=compare
    python -m miue_jax.main --config=configs/curves.py:settings --config.data.path=FILE.npz \
        --workdir=runs/settings --mode=compare
"""

import ml_collections

from miue_jax.settings import config

VARIANTS = ("defences", "settings")

# As in configs/compare.py.
_MIUE = {"name": "miue", "epochs": 16, "step_size_start": 1.6 / 255, "step_size_end": 0.6 / 255}
FRACTIONS = (0.2, 0.4, 0.6, 0.8)  # and 1
BUDGETS = (4, 12, 16)  # 255ths, and 8


def get_config(variant: str = "settings") -> ml_collections.ConfigDict:
  """Returns the recipe of a variant."""
  if variant not in VARIANTS:
    raise ValueError(f"no variant {variant!r}; there are {', '.join(VARIANTS)}")
  c = config.default()
  c.name = f"curves_{variant}"
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.model.name = c.victim.name = "small_cnn"
  c.model.width = c.victim.width = 16
  c.source.augment = "crop_flip"
  c.source.weight_decay = 5e-4
  c.method.batch_size = 256
  c.method.checkpoint_every = 1

  c.victim_fit.epochs = 20
  c.victim_fit.learning_rate = 0.1
  c.victim_fit.weight_decay = 5e-4

  c.compare.seeds = (0,)
  c.compare.published = "cifar10"
  recipes = {"miue": {"method": _MIUE}}
  if variant == "settings":
    for fraction in FRACTIONS:
      recipes[f"miue_ratio{round(100 * fraction)}"] = {"method": {**_MIUE, "fraction": fraction}}
    for budget in BUDGETS:
      epsilon = {"epsilon": budget / 255, "epsilon_start": budget / 255}
      recipes[f"miue_epsilon{budget}"] = {"method": {**_MIUE, **epsilon}}
  else:
    c.compare.defences = (
      "none",
      *(f"jpeg{quality}" for quality in (10, 30, 50, 70, 90)),
      *(f"at{radius}" for radius in (2, 4, 8)),
    )
  c.compare.recipes = recipes
  c.compare.methods = tuple(recipes)
  return c
