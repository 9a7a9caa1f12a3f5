"""Predicts a number for each text, such as how similar two sentences are, with soft prompts and label words."""
