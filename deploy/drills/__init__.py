"""Drills that kill nodes of a cluster made of Linux namespaces on one machine."""
