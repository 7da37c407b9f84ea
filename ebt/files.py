"""Atomic writes of files and folders, and strict JSON."""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def write_whole(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends and is discarded if the block fails.

    The content goes to a temporary file in the same folder, is synced to disk and then renamed, so the previous file stays
    intact until the new one is complete. Symbolic links are followed. Anything that is not a regular file (``/dev/stdout``, a
    named pipe) is written directly.

    Raises:
        OSError: If the file cannot be written. It has the name of the file.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
        else:
            with _beside(path.resolve()) as file:
                yield file
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file in the folder of ``path``, and rename it when the block ends."""
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


def put(fresh: Path, target: Path) -> None:
    """Rename a file or folder to ``target``, and delete the file or folder that was there.

    On Linux the two are exchanged in one step, so ``target`` exists at any moment. Elsewhere, and on file systems that cannot
    do this, they are renamed one after the other.

    Raises:
        OSError: If they cannot be renamed. ``target`` stays as it is.
    """
    if not target.exists():
        fresh.rename(target)
        return
    if not _exchange(fresh, target):
        old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
        target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            old.rename(target)
            raise
        fresh = old
    shutil.rmtree(fresh) if fresh.is_dir() else fresh.unlink()


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names of a file system in one step, where the system can."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "renameat2"):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    found: int = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), swap)
    return found == 0


def write_text(text: str, path: str | Path) -> None:
    """Write a UTF-8 text file atomically."""
    with write_whole(path) as file:
        file.write(text.encode())


def finite(value: Any) -> Any:
    """Prepare a value for JSON: results become objects, tuples become lists, and non-finite numbers become None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(value: Any, path: str | Path) -> None:
    """Write a JSON file atomically. Non-finite numbers become null."""
    write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n", path)


def unwritten(error: Exception) -> bool:
    """Whether an error tells that a file could not be written. Code in Rust has exceptions of its own for that."""
    return isinstance(error, OSError) or "(os error " in str(error)


def separator(header: str) -> str:
    """The separator of a CSV file with this first line: the comma, semicolon or tab that is most frequent outside quotes."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=bare.count)


def digest(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
