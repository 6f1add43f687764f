"""Fuzz the replica's app: generated requests, raw bytes, attacks on the socket, requests without a key."""
