"""Samples the sets of a text generation task."""
