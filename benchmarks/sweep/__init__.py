"""What a sweep costs beside other searches, and what it gives on published data: `python -m benchmarks.sweep`."""
