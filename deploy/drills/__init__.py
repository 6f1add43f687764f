"""Clusters of Linux namespaces on one machine, to kill nodes of."""
