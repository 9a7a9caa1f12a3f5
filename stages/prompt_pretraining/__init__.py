"""Pretrains a soft prompt on raw text (PPT)."""
