"""Helpers shared by the commands: options, tables, progress bars and the output folder."""

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
"""The values of ``ebt.thinking.Rule``, repeated here so that help and errors do not import torch."""
WORD_RULES = (*RULES, "mean")
"""The values of ``ebt.thinking.WordRule``."""
RULE_HELP = "rule that chooses the candidate (default: lowest); for text also mean, over all candidates and steps"
MODEL_HELP = "model folder, run folder of `ebt fit`, or name of `ebt models`"
SPLITS = ("validation", "test", "shifted")
"""Splits of held-out data; ``shifted`` is the harder test set of moving digits."""


class Options(argparse.ArgumentParser):
    """The option parser of a command. It shows an example below the help and raises ``InputError`` for wrong options."""

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
        """Parse the options. If the command takes configuration keys, they are in ``keys`` of the result."""
        if not self.open:
            return self.parse_args(argv)
        args, keys = self.parse_known_args(argv)
        return argparse.Namespace(**vars(args), keys=keys)

    def takes_keys(self, usage: str) -> None:
        """Accept the keys of a configuration as well."""
        self.open, self.usage = True, f"{self.prog} {usage} [--KEY VALUE ...]"

    def config(self, metavar: str, what: str, required: bool = False) -> None:
        """Add --config, which may be repeated."""
        default: list[str] | None = None if required else []
        self.add_argument("-c", "--config", action="append", default=default, required=required, metavar=metavar, help=what)

    def checkpoint(self, what: str = MODEL_HELP, metavar: str = "MODEL") -> None:
        """Add --checkpoint."""
        self.add_argument("--checkpoint", required=True, metavar=metavar, help=what)

    def baseline(self) -> None:
        """Add --baseline."""
        what = "another model to compare with; may be given several times"
        self.add_argument("--baseline", action="append", default=[], metavar="MODEL", help=what)

    def text(self, name: str, file: str, what: str) -> None:
        """Add an option for a text and one for a text file. ``text_of`` reads them."""
        text = self.add_mutually_exclusive_group(required=True)
        text.add_argument(f"--{name}", dest="text", metavar="TEXT", help=what)
        text.add_argument(f"--{file}", dest="file", metavar="FILE", help=f"UTF-8 file with the {what}")

    def thinking(self, steps: str, candidates: str, rules: Sequence[str], moves: str = "") -> Callable[..., Any]:
        """Add the thinking options, and --tolerance for what ``moves``. Returns the group's ``add_argument``."""
        group = self.add_argument_group("thinking (defaults: the model's)")
        group.add_argument("--steps", type=count_from(1), metavar="N", help=steps)
        group.add_argument("--candidates", type=count_from(1), metavar="M", help=candidates)
        group.add_argument("--rule", choices=rules, help=RULE_HELP if rules == WORD_RULES else RULE_HELP.partition(";")[0])
        if moves:
            what = f"stop when {moves} change by less than T"
            group.add_argument("--tolerance", type=number_in(0), metavar="T", help=what)
        self.scale_and_noise(group)
        return group.add_argument

    def scale_and_noise(self, group: argparse._ArgumentGroup) -> None:
        """Add --step-size-scale, --candidate-noise and --stop. ``scaled_and_noisy`` reads them."""
        add, positive = group.add_argument, number_in(0)
        factor = "factor on the learned step size alpha"
        add("--step-size-scale", type=positive, metavar="X", help=factor)
        noise = "standard deviation of Langevin noise, for all candidates except the first"
        add("--candidate-noise", type=positive, metavar="X", help=noise)
        own = "stopping rule: change(X), energy(X), budget(N) or your own my_module.MyStop(...)"
        add("--stop", metavar="NAME", help=own)

    def out(self, what: str) -> None:
        """Add --out."""
        self.add_argument("--out", metavar="DIR", help=f"output folder for {what}")

    def seed(self, what: str) -> None:
        """Add --seed."""
        self.add_argument("--seed", type=count_from(0), default=0, metavar="N", help=f"seed of {what} (default: 0)")


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the named options that were given."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def scaled_and_noisy(args: argparse.Namespace, models: Sequence[Any], candidates: int) -> dict[str, Any]:
    """Return the thinking options for ``--step-size-scale``, ``--candidate-noise`` and ``--stop``, as far as given.

    Raises:
        InputError: No model thinks, or ``--candidate-noise`` is given for a single candidate.
    """
    found = dict[str, Any]()
    for name, option in (("step_size_scale", "step_size_scale"), ("candidate_noise", "noise"), ("stop", "stop")):
        if (value := getattr(args, name)) is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        if not any(hasattr(model, "landscape") for model in models):
            raise InputError(f"{flag} needs a model that thinks, and {args.checkpoint} does not: leave it out.")
        if name == "candidate_noise" and candidates < 2:
            raise InputError(
                f"{flag} applies to all candidates but the first, and there is only one: raise --candidates, or leave it out."
            )
        found[option] = value
    return found


def count_from(least: int) -> Callable[[str], int]:
    """Return an option type for integers of at least ``least``."""

    def whole(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return int(text)

    return whole


def counts(text: str) -> list[int]:
    """Parse comma-separated positive integers, and sort them without duplicates."""
    return sorted({count_from(1)(part) for part in text.split(",")})


def number_in(above: float, most: float = math.inf) -> Callable[[str], float]:
    """Return an option type for finite numbers greater than ``above`` and at most ``most``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not above < value <= most or math.isinf(value):
            bound = f"above {above:g}" + (f" and at most {most:g}" if most < math.inf else "")
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {bound}")
        return value

    return number


def text_of(args: argparse.Namespace) -> str:
    """Return the text given by the options of ``Options.text``."""
    return args.text if args.text is not None else read_text(args.file)


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
