"""Files that a reader finds whole or not at all, and strict JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def write_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and leaves no trace if the block fails.

    The content is written beside ``path``, synchronised to the disk and renamed, so that the former file stays intact until the
    new one is complete. A link keeps pointing to its file, whose content changes; what is no file (``/dev/stdout``, a named
    pipe) is written directly.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with write_whole(path) as file:
        file.write(text.encode())


def finite(value: Any) -> Any:
    """A value for JSON: tuples become lists, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(value: Any, path: str | Path) -> None:
    """Write a JSON file, whole or not at all; numbers that are not finite become null."""
    write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n", path)


def digest(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
