"""Searches settings of prompt tuning: trials are steps, and successive halving decides which ones train longer."""
