"""Trains the sub-models of PET and iPET."""
