"""Asks a language model for facts: LAMA, P-tuning and OptiPrompt."""
