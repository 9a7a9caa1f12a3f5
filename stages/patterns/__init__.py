"""The cloze question: its language, its tokens, its words, their scores."""
