"""What the commands share: options, tables, progress and colours in the terminal, the output folder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from ebt.errors import InputError

RULES = ("lowest", "highest", "largest_drop", "majority")
"""Those of ``ebt.thinking.Rule``, written out because help and errors shall not wait for torch."""
WORD_RULES = (*RULES, "mean")
"""Those of ``ebt.thinking.WordRule``."""
RULE_HELP = "which candidate wins (default: lowest); of text also mean: of what all candidates thought at all steps"
SPLITS = ("validation", "test", "shifted")
"""Of what runs held out; shifted: the harder test of moving digits."""


class Options(argparse.ArgumentParser):
    """Options of a command, with an example below its help; a wrong one is an ``InputError``."""

    def __init__(self, name: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"ebt {name}",
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.open = False

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. See `{self.prog} --help`.")

    def read(self, argv: list[str]) -> argparse.Namespace:
        """The options; ``keys`` of them are those of a configuration, where the command takes them."""
        if not self.open:
            return self.parse_args(argv)
        args, keys = self.parse_known_args(argv)
        return argparse.Namespace(**vars(args), keys=keys)

    def takes_keys(self, usage: str) -> None:
        """Take the keys of a configuration, too."""
        self.open, self.usage = True, f"{self.prog} {usage} [--KEY VALUE ...]"

    def config(self, metavar: str, what: str, required: bool = False) -> None:
        """Add --config, which may be repeated."""
        default: list[str] | None = None if required else []
        self.add_argument("-c", "--config", action="append", default=default, required=required, metavar=metavar, help=what)

    def checkpoint(self, what: str = "model folder, or run folder of `ebt fit`", metavar: str = "DIR") -> None:
        """Add --checkpoint."""
        self.add_argument("--checkpoint", required=True, metavar=metavar, help=what)

    def baseline(self) -> None:
        """Add --baseline."""
        what = "another model to compare with; may be repeated"
        self.add_argument("--baseline", action="append", default=[], metavar="DIR", help=what)

    def text(self, name: str, file: str, what: str) -> None:
        """Add an option for a text and one for its file; ``text_of`` reads them."""
        text = self.add_mutually_exclusive_group(required=True)
        text.add_argument(f"--{name}", dest="text", metavar="TEXT", help=what)
        text.add_argument(f"--{file}", dest="file", metavar="FILE", help=f"file with the {what}, UTF-8")

    def thinking(self, steps: str, candidates: str, rules: Sequence[str], moves: str = "") -> Callable[..., Any]:
        """Add the options of thinking, and --tolerance of what ``moves``; returns what adds another beside them."""
        group = self.add_argument_group("thinking (defaults: those of the model)")
        group.add_argument("--steps", type=count_from(1), metavar="N", help=steps)
        group.add_argument("--candidates", type=count_from(1), metavar="M", help=candidates)
        group.add_argument("--rule", choices=rules, help=RULE_HELP if rules == WORD_RULES else RULE_HELP.partition(";")[0])
        if moves:
            what = f"stop thinking when {moves} by less than this"
            group.add_argument("--tolerance", type=number_in(0), metavar="T", help=what)
        self.scale_and_noise(group)
        return group.add_argument

    def scale_and_noise(self, group: argparse._ArgumentGroup) -> None:
        """Add --step-size-scale, --candidate-noise and --stop; ``scaled_and_noisy`` reads them."""
        add, positive = group.add_argument, number_in(0)
        softer = "alpha, as a multiple of the learned one; below 1: softer"
        add("--step-size-scale", type=positive, metavar="X", help=softer)
        add("--candidate-noise", type=positive, metavar="X", help="Langevin noise of all candidates but the first")
        own = "stop thinking by change(X), energy(X), budget(N) or my_module.MyStop(...) of your own"
        add("--stop", metavar="NAME", help=own)

    def out(self, what: str) -> None:
        """Add --out."""
        self.add_argument("--out", metavar="DIR", help=f"write {what} into this folder")

    def seed(self, what: str) -> None:
        """Add --seed."""
        self.add_argument("--seed", type=count_from(0), default=0, metavar="N", help=f"of {what} (default: 0)")


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named options that are given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def scaled_and_noisy(args: argparse.Namespace, models: Sequence[Any], candidates: int) -> dict[str, Any]:
    """The thinking options of ``--step-size-scale``, ``--candidate-noise`` and ``--stop``, where they are given.

    Raises:
        InputError: no model thinks, or noise without a second candidate.
    """
    found = dict[str, Any]()
    for name, option in (("step_size_scale", "step_size_scale"), ("candidate_noise", "noise"), ("stop", "stop")):
        if (value := getattr(args, name)) is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if not any(hasattr(model, "landscape") for model in models):
            raise InputError(f"{args.checkpoint} does not think, so it has no use for {flag}: leave it out.")
        if name == "candidate_noise" and candidates < 2:
            raise InputError(
                f"{flag} is for all candidates but the first: give more of them with --candidates, or leave it out."
            )
        found[option] = value
    return found


def count_from(least: int) -> Callable[[str], int]:
    """The type of options that are whole numbers, at least ``least``."""

    def whole(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return whole


def counts(text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    return sorted({count_from(1)(part) for part in text.split(",")})


def number_in(above: float, most: float = math.inf) -> Callable[[str], float]:
    """The type of options that are numbers above ``above``, at most ``most``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value <= most or math.isinf(value):
            bound = f"above {above:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise argparse.ArgumentTypeError(f"{text!r} is no number {bound}")
        return value

    return number


def text_of(args: argparse.Namespace) -> str:
    """The text of ``Options.text``."""
    return args.text if args.text is not None else read_text(args.file)


def read_text(path: str) -> str:
    """A UTF-8 text file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give an existing text file in UTF-8.") from error


def out_folder(path: str | None) -> Path | None:
    """The folder for results, made if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    if path is None:
        return None
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {path} cannot be made ({error}): choose another folder.") from error
    return Path(path)


def plain_table(*columns: str | Column) -> Table:
    """A table with a line under its head only."""
    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False)


def numbers(*names: str) -> list[Column]:
    """Columns of numbers, which end in one line."""
    return [Column(name, justify="right") for name in names]


def print_table(console: Console, title: str, table: Table, caption: str = "") -> None:
    """A table below its title; both may be wider than the table. On a narrow terminal words wrap and lines run on: numbers are
    never cut."""
    free = console.options.update(width=100_000)
    whole = Measurement.get(console, free, table)
    share = min(1.0, max(0, console.width - whole.minimum) / max(1, whole.span))
    for column in table.columns:
        cells = [Measurement.get(console, free, cell) for cell in (column.header, *column.cells)]
        least, most = max(cell.minimum for cell in cells), max(cell.maximum for cell in cells)
        column.width = least + int(share * (most - least))
    width, console.width = console.width, max(console.width, whole.minimum)
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.width = width
    if caption:
        console.print(caption, style="dim", markup=False, highlight=False)


def say(console: Console, text: str, style: str | None = None) -> None:
    """One line, which runs on where the terminal is narrow."""
    console.print(text, style=style, highlight=False, soft_wrap=True)


def say_written(console: Console, paths: Sequence[Path]) -> None:
    """One line for the files that were written."""
    say(console, f"written: {', '.join(map(str, paths))}", "dim")


def warn(console: Console, texts: Sequence[str]) -> None:
    """One line for each alarm."""
    for text in texts:
        console.print(f"[bold yellow]alarm:[/] {text}", highlight=False)


def bar_columns() -> list[ProgressColumn]:
    """What progress bars show."""
    return [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]


@contextmanager
def progress_bar(label: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on the error stream while a terminal looks on; it disappears in the end. Yields what moves it,
    which takes what is done, and all where that is known."""
    console = Console(stderr=True)
    with Progress(*bar_columns(), console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done, total: progress.update(task, completed=done, total=total)
