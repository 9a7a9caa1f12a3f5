"""Tests which facts a language model predicts: LAMA, P-tuning and OptiPrompt."""
