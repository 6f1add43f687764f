"""Daily snapshots of entity history: one set of files per day, chained by manifests."""
