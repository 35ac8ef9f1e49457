r"""Curves over one varied quantity, on a prefix of CIFAR-10, sized for two CPU cores.

It is the comparison (configs/compare.py) in four variants. Of MI-UE, `defences` varies JPEG
quality and the radius of adversarial training, and `settings` varies the poisoned fraction and
epsilon without a defence. `jpeg` varies the quality for MI-UE and for the two methods that are made
through input transformations. `strengths` varies epsilon of MI-UE and `ap_robust` without a
defence, in grayscale and after JPEG. The report has a figure for each quantity.

    python -m miue_jax.main --config=configs/curves.py:defences --config.data.path=FILE.npz \
        --workdir=runs/defences --mode=compare
    python -m miue_jax.main --config=configs/curves.py:settings --config.data.path=FILE.npz \
        --workdir=runs/settings --mode=compare
    python -m miue_jax.main --config=configs/curves.py:jpeg --config.data.path=FILE.npz \
        --workdir=runs/jpeg --mode=compare
    python -m miue_jax.main --config=configs/curves.py:strengths --config.data.path=FILE.npz \
        --workdir=runs/strengths --mode=compare
"""

import common
import ml_collections

FRACTIONS = (0.2, 0.4, 0.6, 0.8)  # and 1
BUDGETS = (4, 12, 16)  # 255ths, and 8
STRENGTHS = (4, 16)  # the same
QUALITIES = (10, 30, 50, 70, 90)


def get_config(variant: str = "settings") -> ml_collections.ConfigDict:
  """Returns the recipe of a variant."""
  known = "defences", "settings", "jpeg", "strengths"
  if variant not in known:
    raise ValueError(f"curves has no variant {variant!r}; known: {', '.join(known)}")
  c = common.small(f"curves_{variant}")
  c.data.source = "npz"
  c.data.name = "cifar10-prefix"
  c.data.max_train = 5120

  c.compare.seeds = (0,)
  c.compare.published = "cifar10"
  c.compare.shared = common.shared(16)
  miue = {"name": "miue", **common.SMALL["miue"]}
  recipes = {"miue": miue}
  jpeg = tuple(f"jpeg{quality}" for quality in QUALITIES)
  if variant == "settings":
    for fraction in FRACTIONS:
      recipes[f"miue_ratio{round(100 * fraction)}"] = {**miue, "fraction": fraction}
    for budget in BUDGETS:
      recipes[f"miue_epsilon{budget}"] = {**miue, "epsilon": budget / 255}
  elif variant == "defences":
    c.compare.defences = ("none", *jpeg, *(f"at{radius}" for radius in (2, 4, 8)))
  elif variant == "strengths":
    c.compare.defences = ("none", "grayscale", "jpeg90", "jpeg75", "jpeg50", "jpeg10")
    recipes["ap_robust"] = {"name": "ap_robust", **common.SMALL["ap_robust"]}
    for budget in STRENGTHS:
      for name in ("miue", "ap_robust"):
        recipes[f"{name}_epsilon{budget}"] = {**recipes[name], "epsilon": budget / 255}
  else:
    c.compare.defences = ("none", *jpeg)
    for name in ("miue_robust", "ap_robust"):
      recipes[name] = {"name": name, **common.SMALL[name]}
  c.compare.recipes = recipes
  c.compare.methods = tuple(recipes)
  return c
