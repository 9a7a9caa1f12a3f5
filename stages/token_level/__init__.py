"""Token classification and extractive question answering with soft prompts."""
