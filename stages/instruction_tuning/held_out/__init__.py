"""Evaluates a model that was tuned on instructions on a task that it has not seen."""
