"""Declares every setting with its check, and the errors that users read."""
