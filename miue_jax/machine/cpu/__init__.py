"""Workarounds for XLA's CPU backend: memory that is kept, and fast convolutions."""
