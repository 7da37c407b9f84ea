"""Interoperability with the published code."""
