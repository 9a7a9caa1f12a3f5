"""Advice: which method suits a task, and what to try after a run."""
