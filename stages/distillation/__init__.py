"""Trains the student on the soft labels of the ensemble."""
