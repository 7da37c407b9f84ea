"""One policy for bad parts of a source (a file, a line, a row): they are skipped and counted, or refused."""

from __future__ import annotations

import warnings
from typing import Literal

from ebt.errors import InputError

OnError = Literal["skip", "refuse"]
NAMED = 3
"""So many skipped parts are named in the warning."""


class Skipped:
    """Bad parts of a source: counted and told in one warning (`on_error` is `skip`), or raised (`refuse`)."""

    def __init__(self, source: str, on_error: OnError = "skip") -> None:
        if on_error not in ("skip", "refuse"):
            raise InputError(f"on_error={on_error!r} is unknown: give 'skip' or 'refuse'.")
        self.source, self.on_error = source, on_error
        self.count, self.first = 0, list[str]()

    def add(self, error: InputError) -> None:
        if self.on_error == "refuse":
            raise error
        self.count += 1
        if self.count <= NAMED:
            self.first.append(str(error))

    def __str__(self) -> str:
        return " ".join(self.first) + (" ..." if self.count > NAMED else "")

    def __len__(self) -> int:
        return self.count

    def warn(self) -> None:
        if self:
            warnings.warn(
                f"{self.source}: {self.count} bad part(s) skipped; on_error=refuse stops at the first: {self}", stacklevel=3
            )
