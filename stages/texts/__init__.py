"""Texts: where they come from, what is read of them, and logits written beside them."""
