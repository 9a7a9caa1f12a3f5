"""Trains logistic regression on averaged word vectors."""
