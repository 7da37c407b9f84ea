"""How users are told what is wrong: the one error for bad input, and warnings in a line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection

INSTALL = "Install it from a checkout of its repository: pip install '.[images,video]'"
"""How this library is installed today, with what its optional parts need."""


class InputError(ValueError):
    """Bad input from a user: the message names the input and the remedy. The command prints it without a traceback."""


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """A warning in one line, without the place in the code: for ``warnings.showwarning``."""
    print(f"ebt: {'alarm' if getattr(category, 'alarm', False) else 'warning'}: {message}", file=sys.stderr)


def unknown(what: str, name: str, known: Collection[str], command: str) -> InputError:
    """The error of a name that is none of those known to ``command``: it tells the nearest, or all of them."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `{command} {close[0]}`?" if close else f"choose one of {', '.join(known)}."
    return InputError(f"there is no {what} {name!r}: {hint}")
