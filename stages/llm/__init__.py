"""Asks a language model at an HTTP endpoint for the label of each text."""
