"""The ``ebt`` command. It dispatches to the module of a command and reports input errors in one line."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
import warnings
from types import ModuleType

import ebt
from ebt.cli.options import options_of
from ebt.cli.output import lasting_output
from ebt.errors import naming_extras, show_warning, unknown

LAB = {"demo": "ebt.lab.demo.command", "scaling": "ebt.lab.scaling.command", "study": "ebt.lab.studies.command"}
"""Modules of the commands that live in ``ebt.lab``."""
COMMANDS = {
    "fit": "train an EBT or a baseline on text, images, video, Sudoku or mazes, or resume a run",
    "plan": "estimate the memory, operations and days of a training run",
    "validate": "evaluate a trained model on validation data",
    "test": "evaluate a trained model on test data",
    "generate": "generate text with a language model",
    "think": "measure quality against thinking steps and candidates",
    "energies": "show the energy of each token of a text while the model thinks",
    "solve": "solve Sudoku puzzles step by step",
    "denoise": "denoise images, or fill in masked regions",
    "rollout": "predict the next frames of a video",
    "probe": "evaluate the features of image models with a linear probe",
    "serve": "watch models think in the browser, and serve them to programs",
    "tokenizer": "train a tokenizer on your own text",
    "models": "list the bundled models",
    "convert": "convert a published checkpoint to a model folder",
    "demo": "train small models, let them think, and write a report",
    "study": "answer a question about EBTs with many training runs",
    "scaling": "fit scaling laws of EBTs and Transformer++ in data, size and operations",
}
"""The commands and their summaries. The module of a command has ``main``, which returns the exit code. In ``ebt.cli``, it takes
the parsed options; in ``LAB``, the raw arguments."""


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG)
"""Errors of files that the system refuses: a full or read-only disk, or missing permissions."""
NEEDS = {
    **dict.fromkeys(("fit", "plan", "validate", "test", "think", "tokenizer", "demo", "study", "scaling"), "train"),
    **dict.fromkeys(("denoise", "probe"), "images"),
    "rollout": "video",
    "serve": "serve",
}
"""Extras that commands need beyond ``hub``, for the error if a package is missing."""
SPIN = "1000"
"""How long OpenMP's threads of ``ebt serve`` wait for each other awake. By default, all wait for one that another program holds
up: a board took 70 seconds beside one busy program, and 3 like this. On an idle machine it costs 10 to 20 %."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and report its errors.

    Exit codes: 0 for success, 2 for invalid input, non-finite numbers or files that the system refuses, 130 and 143 after
    Ctrl-C and SIGTERM, 141 if the reader of stdout closed it.
    """
    with lasting_output() as failures:
        code = _reported(list(sys.argv[1:] if argv is None else argv))
    if not failures or code:
        return code
    if isinstance(failures[0], BrokenPipeError):
        return 141
    print(f"ebt: error: the output cannot be printed ({failures[0]}).", file=sys.stderr)
    return 2


def _reported(arguments: list[str]) -> int:
    """Run a command, and report its errors in one line."""
    debug = "--debug" in arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            return run([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        if debug:
            raise
        print("ebt: interrupted", file=sys.stderr)
        return 130
    except MemoryError as error:
        if debug:
            raise
        print(f"ebt: error: not enough memory ({error}): give smaller numbers.", file=sys.stderr)
        return 2
    except OSError as error:
        if debug or error.errno not in UNWRITABLE:
            raise
        remedy = "check its permissions, free some space, or choose another folder"
        print(f"ebt: error: a file cannot be read or written ({error}): {remedy}.", file=sys.stderr)
        return 2
    except (ValueError, ArithmeticError) as error:
        if debug or not type(error).__module__.startswith("ebt."):  # report the library's own errors, raise ZeroDivisionError
            raise
        print(f"ebt: error: {error}", file=sys.stderr)
        return 2


def run(arguments: list[str]) -> int:
    """Run a command and let its errors propagate."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help", "help", "--version"):
        print(f"{ebt.__version__}\n" if name == "--version" else _help(), end="")
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS, "ebt")
    if os.getcwd() not in sys.path:  # noqa: PTH109 (a string); to import the user's own tasks, updates and stops
        sys.path.append(os.getcwd())  # noqa: PTH109
    given = rest if name in LAB else options_of(name).read(rest)
    if name == "serve":
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    with naming_extras(NEEDS.get(name)):
        return _module(LAB.get(name, f"ebt.cli.{'validate' if name == 'test' else name}")).main(given)


def _module(home: str) -> ModuleType:
    """Import the module of a command, and the libraries that it needs, without garbage collections. Imports make many objects
    and next to no garbage: looking through them again and again takes a fifth of the time to a first board."""
    if home in sys.modules or not gc.isenabled():
        return importlib.import_module(home)
    gc.disable()
    try:
        module = importlib.import_module(home)
        gc.freeze()
        return module
    finally:
        gc.enable()


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return f"""\
Energy-Based Transformers: models that think by descending a learned energy.

usage: ebt COMMAND [OPTIONS]

commands:
{commands}

`ebt COMMAND --help` describes a command and shows an example. --debug shows the traceback of an error.

example:
  ebt solve --checkpoint sudoku-6x6 --givens 12
  ebt fit --config language/ebt --name text
  ebt generate --checkpoint runs/text --prompt "The function returns"
"""


if __name__ == "__main__":
    sys.exit(main())
