"""The ``ebt`` command: finds the command's module, and turns errors of users into one line."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings

from ebt import __version__
from ebt.cli.options import options_of
from ebt.errors import InputError, show_warning, unknown

LAB = {"demo": "ebt.lab.demo.command", "scaling": "ebt.lab.scaling.command", "study": "ebt.lab.studies.command"}
"""Modules of the commands that belong to the laboratory."""
COMMANDS = {
    "fit": "train a model: text, images, video or Sudoku, EBT or a rival; resume a run",
    "plan": "what a training will take: memory, operations, days",
    "validate": "evaluate a trained run on its validation data",
    "test": "evaluate a trained run on its test data",
    "generate": "continue a text with a language model",
    "think": "thinking curves: does thinking longer and self-verification help?",
    "energies": "the energy of every token of a text while the model thinks",
    "solve": "solve a Sudoku, step by step",
    "denoise": "take the noise out of images, or fill in what a mask leaves open",
    "rollout": "predict the next frames of a video, each from those before",
    "probe": "what the features of an image model know",
    "tokenizer": "train a tokenizer on your own text",
    "convert": "make a model folder of a published checkpoint",
    "demo": "train, think and report in minutes",
    "study": "many trainings with seeds and intervals: what thinking is worth, and why",
    "scaling": "do EBTs scale faster than Transformer++ in data, size, operations? power laws with intervals",
}
"""Each command with what it does. Its module has ``main``, which returns the exit code: that of ``ebt.cli.NAME`` takes the
options, which are read before it is imported; that of ``LAB`` the arguments."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Exit codes: 0, success; 2, bad input or numbers that are not finite; 130 and 143, interrupted by Ctrl-C and SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a character that the terminal cannot show never ends a run
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return run([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        if debug:
            raise
        print("ebt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone; keep the interpreter from flushing into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (InputError, ArithmeticError) as error:
        if debug or not type(error).__module__.startswith("ebt."):  # what is not finite, but no division by zero
            raise
        print(f"ebt: error: {error}", file=sys.stderr)
        return 2


def run(arguments: list[str]) -> int:
    """Run a command; its errors are raised."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help", "--version"):
        print(f"{__version__}\n" if name == "--version" else _help(), end="")
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS, "ebt")
    given = rest if name in LAB else options_of(name).read(rest)
    return importlib.import_module(LAB.get(name, f"ebt.cli.{'validate' if name == 'test' else name}")).main(given)


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return f"""\
Energy-Based Transformers: models that think by descending a learned energy.

usage: ebt COMMAND [OPTIONS]

commands:
{commands}

`ebt COMMAND --help` explains a command with an example. --debug shows the traceback of an error.

example:
  ebt fit --config language/ebt --name text
  ebt generate --checkpoint runs/text --prompt "The function returns"
"""


if __name__ == "__main__":
    sys.exit(main())
