"""Labels that arrive later: `python -m ray_jobs.labels ingest|retract|draw|join|show`."""
