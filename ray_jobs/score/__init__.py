"""Score files of transactions: `python -m ray_jobs.score`."""
