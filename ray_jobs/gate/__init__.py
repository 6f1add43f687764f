"""The gate between a challenger and the champion, which `python -m ray_jobs.promote` asks."""
