"""Have the data moved? `python -m monitoring.drift`."""
