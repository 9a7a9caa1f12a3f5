"""What a run writes into MLflow: runs in three levels, curves, pictures, data and models."""
