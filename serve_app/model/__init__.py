"""The model that a replica serves: where it comes from, how it changes, who shadows it."""
