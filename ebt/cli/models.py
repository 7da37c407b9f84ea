"""``ebt models``: list the bundled models."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Column

from ebt import shelf
from ebt.cli.terminal import numbers, plain_table, print_table

FOUND = {"checkout": "models/", "package": "installed", "cache": "downloaded", "download": "not yet"}
"""What the table says of each place."""


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    table = plain_table(
        Column("name", no_wrap=True), Column("problem", no_wrap=True), *numbers("parameters", "MB"), "quality", "found"
    )
    for name, model in shelf.shelf().items():
        size = f"{model.size / 1e6:.1f}"
        table.add_row(name, model.problem, f"{model.parameters:,}", size, model.quality, FOUND[shelf.where(name)[0]])
    print_table(Console(), "Bundled models", table, "quality: on held-out data; intervals are in the model's README.md")
    return 0
