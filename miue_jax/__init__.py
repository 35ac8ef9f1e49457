"""miue_jax: unlearnable image datasets by mutual-information reduction."""

import logging

# Without a handler, Python would print the library's warnings.
logging.getLogger(__name__).addHandler(logging.NullHandler())
