"""The wheel holds the library's configurations."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

from ebt.problems.registry import configurations

ROOT = Path(__file__).parents[2]


def test_configurations_lie_in_the_package() -> None:
    found = {
        f"{problem.name}/{file.name.removesuffix('.yaml')}"
        for problem in files("ebt.problems").iterdir()
        if (configs := problem / "configs").is_dir()
        for file in configs.iterdir()
    }
    assert found == set(configurations())
    assert {"language/ebt", "sudoku/ebt", "images/ebt", "video/ebt"} <= found


def test_the_wheel_is_the_whole_package() -> None:
    """Hatchling takes every file of a package that git does not ignore."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build == {"packages": ["ebt"]}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert not {"*.yaml", "configs", "configs/"} & set(ignored)
