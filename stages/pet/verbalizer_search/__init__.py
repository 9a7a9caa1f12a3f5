"""Searches label words (PETAL)."""
