"""Imports run one way through the house."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "ebt"
LEAVES = {"checks", "errors", "files", "shelf", "__version__"}
HOUSE = ("thinking", "nn", "models", "evaluation", "training", "problems", "interop", "serving", "cli", "lab")
"""Each imports those before it, and nothing behind it."""
BELOW = {folder: set(HOUSE[:i]) for i, folder in enumerate(HOUSE)}
BELOW["thinking"] = set()
BELOW["lab"] |= {"cli"}


def imported(path: Path) -> set[str]:
    """Folders and modules of the library that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} if node.module != "ebt" else {f"ebt.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("ebt.")}


@pytest.mark.parametrize("folder", BELOW)
def test_imports_run_one_way(folder: str) -> None:
    allowed = BELOW[folder] | {folder} | (LEAVES if folder != "thinking" else {"checks"})
    wrong = {
        str(path.relative_to(ROOT)): extra
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (extra := imported(path) - allowed)
    }
    assert wrong == {}


def test_every_folder_is_in_the_table() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(BELOW)
