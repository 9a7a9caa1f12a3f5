"""Tunes a soft prompt and a linear head for a token-level task."""
