"""Cost of each stage on one and two CPUs, and a prediction for a hundred nodes."""
