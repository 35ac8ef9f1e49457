"""Predicts the cost of a run from compiled programs, without training anything."""
