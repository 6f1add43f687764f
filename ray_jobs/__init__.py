"""What `ray job submit` runs: one module a verb."""
