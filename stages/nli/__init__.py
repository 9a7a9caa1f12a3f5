"""Labels texts with a model of natural language inference, without training."""
