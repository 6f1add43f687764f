"""What a sweep leaves on disk, and what it looks like in MLflow."""
