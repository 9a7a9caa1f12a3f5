"""Samples the train, dev, unlabeled and test sets of a task."""
