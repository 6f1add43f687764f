"""The search: sampling, trials, early stopping, choosing the winner."""
