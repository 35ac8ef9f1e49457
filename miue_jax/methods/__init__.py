"""Ways to make a poison. A method is `generate(dataset, config, ...) -> Generated`."""

from miue_jax.methods import miue

METHODS = {"miue": miue.generate}

# What a method's delta step minimises, for `programs`, which builds the step without data.
OBJECTIVES = {"miue": miue.objective}
