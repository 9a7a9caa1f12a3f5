"""Fits a student that counts words to the soft labels of the ensemble."""
