"""Train a detector: `python -m ray_jobs.train`."""
