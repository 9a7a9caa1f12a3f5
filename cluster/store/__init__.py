"""Committed results: the store in a folder or at a URL, leases and checkpoints."""
