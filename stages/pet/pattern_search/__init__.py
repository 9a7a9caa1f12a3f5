"""Searches patterns: edits, gradient-guided trigger words, and text that a seq2seq model writes."""
