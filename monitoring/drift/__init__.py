"""Data and score drift against a reference: `python -m monitoring.drift`."""
