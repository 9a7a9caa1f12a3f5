"""Tunes many soft prompts at once over one backbone."""
