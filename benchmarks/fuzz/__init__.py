"""Bad input against the replica's real app: generated requests, raw bytes, attacks on the socket, and missing keys."""
