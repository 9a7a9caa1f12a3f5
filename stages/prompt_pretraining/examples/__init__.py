"""Builds pretraining examples from a corpus in shards."""
