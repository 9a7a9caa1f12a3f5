"""Labels the unlabeled set with the ensemble."""
