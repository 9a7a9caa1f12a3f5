"""Runs a graph of steps: Ray, MLflow and storage. Knows nothing about language models."""
