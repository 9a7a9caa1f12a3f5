"""Tunes a soft prompt for a regression task."""
