"""Generates the texts of the test set with a trained prompt, and scores them."""
