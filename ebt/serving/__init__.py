"""Serving models to programs."""

LOCAL_HOSTS = ("127.0.0.1", "localhost")
"""Addresses at which a server is reached from its own machine only."""
