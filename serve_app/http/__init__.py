"""What stands before every route: keys, limits, the hot path, the access log."""
