"""Error for bad input, and warnings on one line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection

INSTALL = "Install it from a checkout of its repository: pip install '.[images,video]'"
"""How to install this library with its optional dependencies."""


class InputError(ValueError):
    """Bad user input. The message names the input and the remedy; commands print it without a traceback."""


def show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning on one line without its source location. Replaces ``warnings.showwarning``."""
    print(f"ebt: {'alarm' if getattr(category, 'alarm', False) else 'warning'}: {message}", file=sys.stderr)


def unknown(what: str, name: str, known: Collection[str], command: str) -> InputError:
    """The error for a name that ``command`` does not know. It suggests the closest known name, or lists all of them."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `{command} {close[0]}`?" if close else f"choose one of {', '.join(known)}."
    return InputError(f"there is no {what} {name!r}: {hint}")
