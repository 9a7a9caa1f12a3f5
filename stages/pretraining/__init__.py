"""Prompt pretraining: its formats as cloze tasks, and how their examples are made of raw text."""
