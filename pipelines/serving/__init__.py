"""Predictions for new texts: from files, over HTTP, and as models that MLflow loads."""
