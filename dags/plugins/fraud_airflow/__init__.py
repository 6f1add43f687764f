"""What the DAGs need beside Airflow: Ray jobs as tasks. No Ray, torch, MLflow or code of ours is imported here."""
