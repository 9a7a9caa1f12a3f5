"""Tunes a soft prompt for a task."""
