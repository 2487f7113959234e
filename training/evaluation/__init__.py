"""Measuring predictions against human gaze: baselines, scores, intervals, turned input, report."""
