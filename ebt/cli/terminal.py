"""Helpers shared by the commands: values of options, tables, progress bars and the output folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from ebt.errors import InputError

OPTIONS = {
    "step_size_scale": "step_size_scale",
    "candidate_noise": "noise",
    "candidate_noise_steps": "noise_steps",
    "stop": "stop",
}
"""Thinking options by the name of their argument on the command line."""


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the named options that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def scaled_and_noisy(args: argparse.Namespace, models: Sequence[Any], candidates: int) -> dict[str, Any]:
    """Return the thinking options for ``OPTIONS``, as far as given.

    Raises:
        InputError: No model thinks, or an option of the noise is given for a single candidate, or without noise.
    """
    found, thinking = dict[str, Any](), [model for model in models if hasattr(model, "landscape")]
    for name, option in OPTIONS.items():
        if (value := getattr(args, name)) is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if not thinking:
            raise InputError(f"{flag} needs a model that thinks, and {args.checkpoint} does not: leave it out.")
        if name.startswith("candidate_noise") and candidates < 2:
            raise InputError(
                f"{flag} applies to all candidates but the first, and there is only one: raise --candidates, or leave it out."
            )
        found[option] = value
    if "noise_steps" in found and not any(found.get("noise", model.thinking.noise) for model in thinking):
        raise InputError("--candidate-noise-steps needs noise: give --candidate-noise, or leave it out.")
    return found


def text_of(args: argparse.Namespace) -> str:
    """Return the text given by the options of ``Options.text``.

    Raises:
        InputError: The text is not UTF-8.
    """
    if args.text is None:
        return read_text(args.file)
    try:
        args.text.encode()
    except UnicodeEncodeError as error:  # Python keeps bytes of the command line that are not UTF-8 as surrogates
        raise InputError(f"the text is not UTF-8 at character {error.start + 1}: convert it.") from error
    return str(args.text)


def read_text(path: str) -> str:
    """Read a UTF-8 text file.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give an existing text file in UTF-8.") from error


def out_folder(path: str | None) -> Path | None:
    """Create the output folder if needed, and return its path.

    Raises:
        InputError: The folder cannot be created.
    """
    if path is None:
        return None
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path} cannot be created ({error}): choose another folder.") from error
    return Path(path)


def plain_table(*columns: str | Column) -> Table:
    """Return an empty table with a rule under its header."""
    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False)


def numbers(*names: str) -> list[Column]:
    """Return right-aligned columns."""
    return [Column(name, justify="right") for name in names]


def print_table(console: Console, title: str, table: Table, caption: str = "") -> None:
    """Print a table with a title above and a caption below. On a narrow terminal, words wrap and numbers are never cut."""
    free = console.options.update(width=100_000)
    spans = []
    for column in table.columns:
        cells = [Measurement.get(console, free, cell) for cell in (column.header, *column.cells)]
        most = max(cell.maximum for cell in cells)
        spans.append((most if column.no_wrap else max(cell.minimum for cell in cells), most))
    least, most = (sum(ends) for ends in zip(*spans, strict=True))
    whole = least + Measurement.get(console, free, table).maximum - most
    share = min(1.0, max(0, console.width - whole) / max(1, most - least))
    for column, (narrow, wide) in zip(table.columns, spans, strict=True):
        column.width = narrow + int(share * (wide - narrow))
    width, console.width = console.width, max(console.width, whole)
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.width = width
    if caption:
        console.print(caption, style="dim", markup=False, highlight=False)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print one line without wrapping."""
    console.print(text, style=style, highlight=False, soft_wrap=True)


def say_written(console: Console, paths: Sequence[Path]) -> None:
    """Print a line that lists the files written."""
    say(console, f"written: {', '.join(map(str, paths))}", "dim")


def warn(console: Console, texts: Sequence[str]) -> None:
    """Print one line per alarm."""
    for text in texts:
        console.print(f"[bold yellow]alarm:[/] {text}", highlight=False)


def bar_columns() -> list[ProgressColumn]:
    """Return the columns of progress bars."""
    return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]


@contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """Show a transient progress bar on stderr if it is a terminal. Yields ``update(done, total or None)``."""
    console = Console(stderr=True)
    with Progress(*bar_columns(), console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)
