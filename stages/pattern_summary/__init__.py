"""Compares the patterns of a task with each other, without training."""
