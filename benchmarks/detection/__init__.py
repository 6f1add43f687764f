"""What the detectors catch on published data, beside published and measured peers: `python -m benchmarks.detection`."""
