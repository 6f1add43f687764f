"""Daily snapshots of entity history: `python -m ray_jobs.history`."""
