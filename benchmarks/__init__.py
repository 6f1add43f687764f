"""Benchmarks: speed, memory and detection quality, beside peers measured in the same run. Not part of the tests."""
