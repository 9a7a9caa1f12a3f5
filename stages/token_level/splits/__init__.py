"""Samples the train, dev and test sets of a token-level task."""
