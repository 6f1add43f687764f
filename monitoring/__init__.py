"""Watching the data and the model: drift reports and verdicts."""
