"""Thirty simulated days of production: score, label, monitor, retrain, promote or refuse."""
