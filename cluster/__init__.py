"""WHERE steps run: Ray, MLflow and storage; knows nothing of language."""
