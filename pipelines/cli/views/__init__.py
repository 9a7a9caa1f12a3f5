"""What the command line prints: consoles, progress, JSON events and tables."""
