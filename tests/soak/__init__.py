"""Runs the smoke recipe in a loop while things break. `make soak` starts it; pytest does not collect it."""
