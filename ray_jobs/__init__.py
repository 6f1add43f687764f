"""The commands that `ray job submit` runs, one module or package each."""
