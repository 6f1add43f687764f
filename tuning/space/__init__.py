"""The search space: a YAML file, read strictly."""
