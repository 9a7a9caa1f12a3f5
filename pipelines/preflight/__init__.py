"""Checks that run before anything expensive starts: assets, data, patterns, label words, memory and disks."""
