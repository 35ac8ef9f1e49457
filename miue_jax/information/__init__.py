"""Mutual information between features, in nats."""
