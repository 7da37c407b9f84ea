"""Serving models to programs and people."""
