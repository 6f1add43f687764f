"""The core: what a transaction is and how it is scored. Imports no Ray, FastAPI, Airflow or Evidently."""
