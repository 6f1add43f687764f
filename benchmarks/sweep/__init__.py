"""Speed of sweeps beside other searches, and their quality on published data: `python -m benchmarks.sweep`."""
