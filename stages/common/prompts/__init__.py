"""Soft prompts and trained sub-models: settings, initialization, file formats, loading."""
