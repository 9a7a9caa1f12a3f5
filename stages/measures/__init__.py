"""Figures of merit, and whether two methods differ."""
