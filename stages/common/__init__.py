"""What several stages share: protocols, data, models, prompts and the training loop."""
