"""Committed results: the store on disks and behind URLs, leases, checkpoints."""
