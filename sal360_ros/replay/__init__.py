"""Replay a recorded bag through the predictor or the live node, and evaluate the answers."""
