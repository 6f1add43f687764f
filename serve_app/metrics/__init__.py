"""The metrics of a replica and the page for Prometheus."""
