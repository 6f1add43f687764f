"""What a replica counts, and the page that Prometheus reads."""
