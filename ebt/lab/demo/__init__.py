"""The demo, as run by ``make demo``."""
