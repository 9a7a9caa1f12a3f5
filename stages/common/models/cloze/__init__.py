"""Cloze classifiers: a backbone scores the label words at the mask of a pattern."""
