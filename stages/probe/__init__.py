"""Trains a probe: logistic regression on sentence embeddings."""
