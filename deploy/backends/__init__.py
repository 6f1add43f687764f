"""The demo on PostgreSQL, S3 and Redis: `python -m deploy.backends`."""
