"""From a row to a score, a decision and its reasons: the engine, and the bundle that a detector is saved as."""
