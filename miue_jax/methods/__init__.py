"""Provides the methods of making poisons, by name.

`METHODS` is the plug-in system. An entry is a `Method`: an object with `settings`, `phases` and
`generate`. A line such as `METHODS["toy"] = Alternating(Settings, objective=...)` adds one.
"""

from miue_jax.methods import (
  ap,
  ap_robust,
  ar,
  cuda,
  em,
  gue,
  lsp,
  mine,
  miue,
  miue_robust,
  ntga,
  ops,
  random,
  rem,
  sem,
  tue,
)
from miue_jax.methods.alternating import Alternating
from miue_jax.methods.attack import Attack, AttackSettings
from miue_jax.methods.method import Generated, Method, Sizes
from miue_jax.methods.pattern import Pattern
from miue_jax.methods.shared_settings import (
  AdversarialSettings,
  AlternatingSettings,
  PatternSettings,
)
from miue_jax.settings.schema import settings

METHODS: dict[str, Method] = {
  "ap": Attack(ap.Settings, objective=ap.targeted),
  "ap_max": Attack(ap.MaximisingSettings, objective=ap.maximising),
  "ap_mine": Attack(mine.ApSettings, objective=ap.targeted, auxiliary=mine.auxiliary),
  "ap_robust": Attack(ap_robust.Settings, objective=ap.targeted),
  "ar": Pattern(ar.Settings, ar.pattern),
  "cuda": Pattern(cuda.Settings, cuda.pattern),
  "em": Alternating(em.Settings, objective=em.cross_entropy),
  "em_mine": Alternating(mine.EmSettings, objective=em.cross_entropy, auxiliary=mine.auxiliary),
  "gue": gue.Game(gue.Settings),
  "lsp": Pattern(lsp.Settings, lsp.pattern),
  "miue": Alternating(miue.Settings, objective=miue.objective),
  "miue_robust": Alternating(miue_robust.Settings, objective=miue.objective),
  "ntga": ntga.Kernel(ntga.Settings),
  "ops": Pattern(ops.Settings, ops.pattern),
  "random": Pattern(random.Settings, random.pattern),
  "rem": Alternating(
    rem.Settings,
    objective=em.cross_entropy,
    source_adversary=rem.adversary,
    delta_adversary=rem.adversary,
    fresh=True,
  ),
  "sem": Alternating(
    sem.Settings,
    objective=em.cross_entropy,
    source_adversary=rem.adversary,
    delta_adversary=sem.noise,
    fresh=True,
  ),
  "tue": Alternating(
    tue.Settings, outputs=tue.OUTPUTS, source_step=tue.source_step, delta_step=tue.delta_step
  ),
}

__all__ = [
  "METHODS",
  "AdversarialSettings",
  "Alternating",
  "AlternatingSettings",
  "Attack",
  "AttackSettings",
  "Generated",
  "Method",
  "Pattern",
  "PatternSettings",
  "Sizes",
  "ap",
  "ap_robust",
  "ar",
  "cuda",
  "em",
  "gue",
  "lsp",
  "mine",
  "miue",
  "miue_robust",
  "ntga",
  "ops",
  "random",
  "rem",
  "sem",
  "settings",
  "tue",
]


def settings_of() -> dict[str, type]:
  """Returns the settings class of every method, by name."""
  return {name: method.settings for name, method in METHODS.items()}
