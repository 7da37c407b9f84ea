"""The option parser of the commands. It imports nothing outside the standard library, so that help needs no package."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ebt.errors import InputError

RULES = ("lowest", "highest", "largest_drop", "settled", "decided", "visited", "majority")
"""The values of ``ebt.thinking.Rule``, repeated here so that help and errors do not import torch."""
WORD_RULES = (*RULES, "mean")
"""The values of ``ebt.thinking.WordRule``."""
RULE_HELP = "rule that chooses the candidate (default: the model's); for text also mean, over all candidates and steps"
MODEL_HELP = "model folder, run folder of `ebt fit`, or name of `ebt models`"
SEEDS = 2**32 - 1
"""The largest seed that all libraries accept."""
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
        wrong = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        raise InputError(f"{message}.{self.nearest(wrong[1]) if wrong else ''} See `{self.prog} --help`.")

    @property
    def known(self) -> list[str]:
        """The names of all options."""
        return [name for action in self._actions for name in action.option_strings]

    def nearest(self, option: str) -> str:
        """Return a question that names the option closest to a misspelt one, or nothing."""
        close = difflib.get_close_matches(option.lower()[2:], [name[2:] for name in self.known], 1)
        return f" Did you mean --{close[0]}?" if close else ""

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
            group.add_argument("--tolerance", type=number_in(0, including=True), metavar="T", help=what)
        self.scale_and_noise(group)
        return group.add_argument

    def scale_and_noise(self, group: argparse._ArgumentGroup) -> None:
        """Add the options that ``scaled_and_noisy`` reads."""
        add, positive = group.add_argument, number_in(0)
        factor = "factor on the learned step size alpha"
        add("--step-size-scale", type=positive, metavar="X", help=factor)
        noise = "standard deviation of Langevin noise, for all candidates except the first"
        add("--candidate-noise", type=number_in(0, including=True), metavar="X", help=noise)
        first = "number of steps with noise, the first ones (default: the model's, or all)"
        add("--candidate-noise-steps", type=count_from(1), metavar="N", help=first)
        own = "stopping rule: change(X), energy(X), budget(N) or your own my_module.MyStop(...)"
        add("--stop", metavar="NAME", help=own)

    def out(self, what: str) -> None:
        """Add --out."""
        self.add_argument("--out", metavar="DIR", help=f"output folder for {what}")

    def seed(self, what: str) -> None:
        """Add --seed."""
        self.add_argument("--seed", type=count_from(0, SEEDS), default=0, metavar="N", help=f"seed of {what} (default: 0)")


def count_from(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    """Return an option type for integers of at least ``least`` and at most ``most``."""

    def whole(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        if int(text) > most:
            raise argparse.ArgumentTypeError(f"{text} is too large: give at most {most}")
        return int(text)

    return whole


def counts(text: str) -> list[int]:
    """Parse comma-separated positive integers, and sort them without duplicates."""
    return sorted({count_from(1)(part) for part in text.split(",")})


def number_in(above: float, most: float = math.inf, including: bool = False) -> Callable[[str], float]:
    """Return an option type for finite numbers greater than ``above`` (or equal, if ``including``) and at most ``most``."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (above < value <= most or (including and value == above)) or math.isinf(value):
            least, end = "of at least" if including else "above", f" and at most {most:g}" if most < math.inf else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {least} {above:g}{end}")
        return value

    return number
