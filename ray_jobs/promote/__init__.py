"""Set what serves, and show it: `python -m ray_jobs.promote`."""
