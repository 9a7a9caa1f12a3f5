"""The step graph of a recipe. `fewshot.py` builds it from the parts in the other modules."""
