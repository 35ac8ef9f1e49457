"""Ways to make a poison. A method is `generate(dataset, config, ...) -> Generated`."""

from miue_jax.methods import ap, ar, cuda, em, lsp, miue, ops, random

METHODS = {
  "ap": ap.generate,
  "ap_max": ap.generate_maximising,
  "ar": ar.generate,
  "cuda": cuda.generate,
  "em": em.generate,
  "lsp": lsp.generate,
  "miue": miue.generate,
  "ops": ops.generate,
  "random": random.generate,
}

# What a method's delta step minimises, for `programs`, which builds the step without data.
OBJECTIVES = {"em": em.objective, "miue": miue.objective}
