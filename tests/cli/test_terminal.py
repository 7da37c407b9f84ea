"""Tables: numbers are whole at any width of the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ebt.cli.terminal import plain_table, print_table


@given(st.integers(1, 120), st.lists(st.floats(allow_nan=False), min_size=1, max_size=9), st.text("ab ", max_size=40))
def test_numbers_are_never_cut(width: int, numbers: list[float], words: str) -> None:
    console = Console(file=io.StringIO(), width=width)
    table = plain_table("name", *(f"energy at step {i}" for i in range(len(numbers))))
    table.add_row(words, *map(str, numbers))
    print_table(console, "title", table)
    text = console.file.getvalue().split()  # type: ignore[attr-defined]
    assert all(str(number) in text for number in numbers)
    assert console.width == width


@pytest.mark.parametrize("width", [60, 200])
def test_a_table_that_fits_is_no_wider_than_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    table = plain_table("words", "number")
    table.add_row("many words " * 9, "-10.123")
    print_table(console, "title", table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width


def test_cells_that_must_not_wrap_are_whole() -> None:
    console = Console(file=io.StringIO(), width=30)
    table = plain_table()
    for name in ("solved %", "passes"):
        table.add_column(name, no_wrap=True)
    table.add_column("words")
    table.add_row("100.0 ±0.0", "16 + 16", "one two three four")
    print_table(console, "title", table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "100.0 ±0.0" in text
    assert "16 + 16" in text
    assert "…" not in text
