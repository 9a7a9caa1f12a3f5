"""Tasks as cloze questions: patterns, their tokens, and label words."""
