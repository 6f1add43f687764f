"""Drift over many days: `python -m monitoring.trend`."""
