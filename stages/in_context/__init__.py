"""In-context learning: labeled demonstrations before each text, without training."""
