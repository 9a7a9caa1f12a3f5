"""Samples the train, dev and test sets of a regression task."""
