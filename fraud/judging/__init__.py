"""Judge a model from scored rows: evaluation, paired comparison, promotion gate, plots and pages."""
