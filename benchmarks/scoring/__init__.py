"""Batch scoring beside what most people write, its memory, and what Ray costs a small file."""
