"""Live performance when labels come late: `python -m monitoring.performance`."""
