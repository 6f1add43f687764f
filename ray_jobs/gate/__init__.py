"""The promotion gate: `python -m ray_jobs.promote --gate`."""
