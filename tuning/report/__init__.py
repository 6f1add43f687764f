"""A sweep's page and pictures: `python -m tuning.report`."""
