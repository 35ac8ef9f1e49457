"""Protects a folder of pictures, proves it, and continues tomorrow: what `miue-jax` does.

The folder `OUT` holds published pictures only. `OUT.key` restores them, and `OUT.private` keeps the
source model, interrupted work, results of victims, audits and the page. Both are private.
"""
