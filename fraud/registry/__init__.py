"""MLflow: runs, model versions, promotion, and the reference that drift is measured against."""
