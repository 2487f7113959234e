"""Panoramas, gaze datasets, fixations and views."""
