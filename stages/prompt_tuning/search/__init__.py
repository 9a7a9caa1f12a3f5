"""Judges a setting of prompt tuning by cross-validation on the labeled examples."""
