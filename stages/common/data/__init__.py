"""Examples: read from files, datasets of the hub and shards, and written between steps."""
