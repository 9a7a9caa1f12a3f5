"""Trains the student's encoder on the labeled examples only."""
