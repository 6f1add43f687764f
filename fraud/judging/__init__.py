"""What scored rows say about a model: evaluation, comparison, the gate, pictures and pages."""
