"""Plots of studies."""
