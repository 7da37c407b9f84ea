"""The bundled models: their names, and where they are found.

``shelf.json`` describes each model. Its folder is searched in ``models/`` of a checkout, in the installed package
``ebt_models`` and in the cache. If it is in none of them, its archive is downloaded into the cache.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Literal

from ebt.errors import InputError

MANIFEST = Path(__file__).with_name("shelf.json")
CHECKOUT = Path(__file__).parents[1] / "models"
PACKAGE = "ebt_models"
"""Import name of the package of models, ``energy-based-transformers-models``."""
ADDRESS = "EBT_MODELS_URL"
"""Environment variable with the address of a release: a folder with NAME.zip for each model (``models/make.py --archives``)."""
INSTALL = "install the models from a checkout (pip install ./models)"
SECONDS = 30
"""Time limit of a download without any data."""
CHUNK = 2**16

Place = Literal["checkout", "package", "cache", "download"]


@dataclass(frozen=True)
class Shipped:
    """A bundled model."""

    problem: str
    parameters: int
    size: int
    """Bytes of the archive."""
    sha256: str
    """Checksum of the archive."""
    quality: str
    """Quality on held-out data, in one phrase."""


@cache
def shelf() -> dict[str, Shipped]:
    """Return the models by name."""
    return {name: Shipped(**entry) for name, entry in json.loads(MANIFEST.read_text(encoding="utf-8")).items()}


def where(name: str) -> tuple[Place, Path]:
    """Return the place of a model of the shelf, and its folder; for ``download``, the folder it would have."""
    spec = find_spec(PACKAGE)
    package = Path(spec.origin).parent if spec is not None and spec.origin else None
    places: dict[Place, Path | None] = {"checkout": CHECKOUT, "package": package, "cache": _cache()}
    for place, folder in places.items():
        if folder is not None and (folder / name / "config.json").is_file():
            return place, folder / name
    return "download", _cache() / name


def located(name: str | PathLike[str]) -> Path:
    """Return the folder of a model of the shelf, downloaded if necessary. Other names are returned as paths.

    A folder of that name in the working directory takes precedence.

    Raises:
        InputError: If the model cannot be downloaded.
    """
    path = Path(name)
    if path.exists() or str(name) not in shelf():
        return path
    place, folder = where(str(name))
    return folder if place != "download" else _download(str(name), folder)


def suggestion(name: str | PathLike[str]) -> str:
    """Return a sentence with the model whose name is nearest, or else with all names. Empty for a path of several parts."""
    if len(Path(name).parts) != 1:
        return ""
    close = difflib.get_close_matches(str(name), shelf(), 1)
    return f" Did you mean {close[0]!r}?" if close else f" Bundled models: {', '.join(shelf())}."


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebt" / "models"


def _download(name: str, folder: Path) -> Path:
    """Download a model. The folder appears when all its files are complete and their checksum is right."""
    remedy = f"{INSTALL}, set {ADDRESS} to the address of a release, or train it in a checkout (python models/make.py {name})."
    if not (release := os.environ.get(ADDRESS)):
        raise InputError(f"the model {name!r} is not here: {remedy}")
    address = f"{release.rstrip('/')}/{name}.zip"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as fresh:
            archive = Path(fresh) / "archive.zip"
            found, wanted = _fetch(address, archive, shelf()[name].size), shelf()[name].sha256
            if found != wanted:
                raise InputError(f"{address} is not this version's {name!r} (SHA-256 {found}, not {wanted}): {remedy}")
            with zipfile.ZipFile(archive) as files:
                files.extractall(Path(fresh) / name)
            _settle(Path(fresh) / name, folder)
    except OSError as error:
        raise InputError(f"the model {name!r} is not here, and {address} cannot be downloaded ({error}): {remedy}") from error
    return folder


def _fetch(address: str, file: Path, size: int) -> str:
    """Download at most one byte more than ``size``, and return the SHA-256. Raises ``OSError`` if bytes are missing."""
    found, left = hashlib.sha256(), size + 1
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer, file.open("wb") as target:
            while left and (part := answer.read(min(CHUNK, left))):
                target.write(part)
                found.update(part)
                left -= len(part)
    except (HTTPException, ValueError) as error:  # a malformed answer or address
        raise ConnectionError(str(error)) from error
    if left > 1:
        raise ConnectionError(f"{left - 1:,} of {size:,} bytes are missing")
    return found.hexdigest()


def _settle(fresh: Path, folder: Path) -> None:
    """Rename the folder, unless another process was faster."""
    try:
        fresh.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
        shutil.rmtree(fresh)
