"""`clozeline init`: from a file of labelled texts to a recipe that plans and runs."""
