"""Bringing the system up and down: on one machine here, on clusters beside it."""
