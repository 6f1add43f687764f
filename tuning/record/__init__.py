"""A sweep's journal on disk, its results, and its MLflow content."""
