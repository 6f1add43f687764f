"""Stores of the live history: in this process, on this node, or in Redis."""
