"""``ebt test``: evaluate the best weights of a run on its test data."""

from __future__ import annotations

from ebt.cli.validate import evaluate


def main(argv: list[str]) -> int:
    """Run the command."""
    return evaluate("test", argv)
