"""The documentation site names what exists, and the API reference is complete."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def pages(nav: object) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in pages(entry)]  # type: ignore[attr-defined]


def test_the_navigation_leads_to_pages() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    missing = [page for page in pages(nav) if not (ROOT / "docs" / page).is_file()]
    assert missing == []


@pytest.mark.parametrize(("module", "page"), [("ebt.thinking", "thinking"), ("ebt.nn", "nn")])
def test_the_reference_names_every_export(module: str, page: str) -> None:
    named = set(re.findall(r"^::: [\w.]+\.(\w+)$", (ROOT / f"docs/api/{page}.md").read_text(encoding="utf-8"), re.MULTILINE))
    package = importlib.import_module(module)
    documented = {name for name in package.__all__ if getattr(getattr(package, name), "__module__", "").startswith("ebt.")}
    assert documented - named == set()
