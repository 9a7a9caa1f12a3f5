"""Trains logistic regression on TF-IDF features."""
