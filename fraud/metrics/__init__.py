"""Ranking metrics and their confidence intervals."""
