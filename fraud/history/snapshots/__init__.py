"""The history of every day in files: what each day added, chained by manifests."""
