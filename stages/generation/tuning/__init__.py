"""Tunes a soft prompt for a text generation task."""
