"""`clozeline init` and `clozeline recommend`: from a file of labeled texts to a recipe with good settings."""
