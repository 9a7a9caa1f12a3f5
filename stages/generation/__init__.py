"""Text generation with soft prompts: table-to-text, summarization, question generation."""
