"""The one error that users see for bad input."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class InputError(ValueError):
    """Bad input from a user: the message names the input and the remedy. The command prints it without a traceback."""


def unknown(what: str, name: str, known: Collection[str], command: str) -> InputError:
    """The error of a name that is none of those known to ``command``: it tells the nearest, or all of them."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `{command} {close[0]}`?" if close else f"choose one of {', '.join(known)}."
    return InputError(f"there is no {what} {name!r}: {hint}")
