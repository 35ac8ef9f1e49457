"""Ways to make a poison. A method is `generate(dataset, config, ...) -> Generated`."""

from miue_jax.methods import (
  ap,
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

METHODS = {
  "ap": ap.generate,
  "ap_max": ap.generate_maximising,
  "ap_mine": mine.generate_ap,
  "ar": ar.generate,
  "cuda": cuda.generate,
  "em": em.generate,
  "em_mine": mine.generate_em,
  "gue": gue.generate,
  "lsp": lsp.generate,
  "miue": miue.generate,
  "miue_robust": miue_robust.generate,
  "ntga": ntga.generate,
  "ops": ops.generate,
  "random": random.generate,
  "rem": rem.generate,
  "sem": sem.generate,
  "tue": tue.generate,
}

# What the two sides of a method do, for `programs`, which builds their steps without data.
BILEVEL = {
  "em": em.bilevel,
  "em_mine": mine.bilevel,
  "miue": miue.bilevel,
  "miue_robust": miue_robust.bilevel,
  "rem": rem.bilevel,
  "sem": sem.bilevel,
  "tue": tue.bilevel,
}
