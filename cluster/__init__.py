"""Shared by every job on Ray: connecting to the cluster, listening addresses, the HAProxy ingress."""
