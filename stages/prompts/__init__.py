"""Soft prompts: trainable vectors over a frozen backbone, their initialisation and their file format."""
