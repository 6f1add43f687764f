"""Detectors as plain arrays, their features, and the compiled scoring loops."""
