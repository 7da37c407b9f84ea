"""Experiments: studies, scaling laws and the demo. No other package imports this one."""
