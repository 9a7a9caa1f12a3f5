"""Plots accuracy against the number of labeled examples."""
