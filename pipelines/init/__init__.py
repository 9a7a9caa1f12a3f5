"""`clozeline init` and `clozeline recommend`: write a recipe for a file of labeled texts, and choose its settings."""
