"""Logs runs to MLflow: three levels of runs with metrics, figures, tables, datasets and models."""
