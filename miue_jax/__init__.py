"""miue_jax: unlearnable image datasets by mutual-information reduction."""
