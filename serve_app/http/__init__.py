"""ASGI middleware in front of all routes: keys, limits, the hot path, the access log."""
