"""The loop around a run: selects texts worth labeling, and shows a page to label them."""
