"""Judge a model on labelled rows: `python -m ray_jobs.evaluate`."""
