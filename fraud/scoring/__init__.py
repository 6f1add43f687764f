"""Scores, decisions and reasons: the engine, and the bundle that stores a detector."""
