"""Evaluation shared by all problems: measurements, results as JSON, statistics and plots."""
