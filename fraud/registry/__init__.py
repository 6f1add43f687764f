"""MLflow: runs, model versions, promotion, and the drift reference."""
