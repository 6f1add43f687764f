"""Throughput and latency of /score beside other servers: `python -m benchmarks.serving`."""
