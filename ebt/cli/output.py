"""Standard output and error that never end a command."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Stream(io.FileIO):
    """A file descriptor that takes no more after its first failure: a full disk, or a pipe that its reader has closed."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return len(memoryview(data).cast("B"))


@contextmanager
def lasting_output() -> Iterator[list[OSError]]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that fail neither for characters outside their encoding nor for
    their files. Yields a list that has the failure of stdout after the block, if there was one.
    """
    failures, streams, before = list[OSError](), dict[str, _Stream](), (sys.stdout, sys.stderr)
    for name, given in zip(("stdout", "stderr"), before, strict=True):
        if type(given) is io.TextIOWrapper:
            given.reconfigure(errors="replace" if name == "stdout" else "backslashreplace")
            try:
                streams[name] = stream = _Stream(given.fileno(), "w", closefd=False)
            except (OSError, ValueError):  # a stream in memory, or a closed one
                continue
            given.flush()
            own = io.TextIOWrapper(io.BufferedWriter(stream), given.encoding, given.errors, line_buffering=given.line_buffering)
            setattr(sys, name, own)
    try:
        yield failures
    finally:
        for name in streams:
            getattr(sys, name).flush()
        sys.stdout, sys.stderr = before
        if "stdout" in streams and (failure := streams["stdout"].failure):
            failures.append(failure)
