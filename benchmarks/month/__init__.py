"""Thirty simulated days of the whole loop: score, label, watch, retrain, promote or refuse."""
