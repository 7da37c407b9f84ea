"""Configurations that come with the library, by name: ``language/ebt`` is ``ebt/problems/language/configs/ebt.yaml``."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from ebt.errors import InputError, unknown

ROOT = Path(__file__).parent
GROUP = "ebt.problems"
"""Entry points of other packages' problems; see ``ebt.problems.registry``."""


def configurations() -> dict[str, Path]:
    """All configurations by name, ``PROBLEM/NAME``."""
    found = {f"{path.parents[1].name}/{path.stem}": path for path in sorted(ROOT.glob("*/configs/*.yaml"))}
    for entry in entry_points(group=GROUP):
        folder = Path(str(find_spec(entry.module.partition(".")[0]).origin)).parent  # type: ignore[union-attr]
        found |= {f"{entry.name}/{path.stem}": path for path in sorted(folder.rglob("configs/*.yaml"))}
    return found


def find_configuration(name: str) -> Path:
    """The file of a configuration: a path, or a name as ``configurations`` has it (a leading ``configs/`` and a trailing
    ``.yaml`` do not matter).

    Raises:
        InputError: no such file and no such name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = configurations()
    short = name.removesuffix(".yaml").removeprefix("configs/")
    if short in known:
        return known[short]
    if path.suffix in (".yaml", ".yml") and "/" not in short:
        raise InputError(f"--config {name}: no such file. Give a YAML file, or one of {', '.join(known)}.")
    raise unknown("configuration", short, known, "--config")
