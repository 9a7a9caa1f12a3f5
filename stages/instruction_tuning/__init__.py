"""Trains one language model on the patterns of several tasks, for tasks that it has not seen."""
