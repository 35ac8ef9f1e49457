"""Ways to make a poison. A method is `generate(dataset, config, ...) -> Generated`."""

from miue_jax.methods import miue

METHODS = {"miue": miue.generate}
