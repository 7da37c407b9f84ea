"""The documentation site builds without a warning, its links lead somewhere, and its reference is complete."""

from __future__ import annotations

import html
import importlib
import os
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from ebt.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLIC = ("ebt", "ebt.thinking", "ebt.nn", "ebt.problems")
"""Packages that name what they export."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, as by ``make docs``."""
    command = next(line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "mkdocs build" in line)
    assert "--strict" in command
    folder = tmp_path_factory.mktemp("site")
    options = command.partition("mkdocs ")[2].split()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *options, "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(HTMLParser):
    """The targets of a page, and the places in it that a link can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {name for name in (given.get("id"), given.get("name")) if name}
        self.targets |= {link for link in (given.get("href"), given.get("src")) if link}


def test_the_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    dead = []
    for page, links in pages.items():
        for link in links.targets:
            parts = urlsplit(link)
            if parts.scheme or link == "#__skip":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            place = unquote(parts.fragment) if target.suffix == ".html" else ""
            if not target.is_file() or (place and place not in pages[target].places):
                dead.append(f"{page.relative_to(site)}: {link}")
    assert len(pages) > 40
    assert dead == []


@pytest.mark.parametrize("package", PUBLIC)
def test_the_reference_names_every_export(site: Path, package: str) -> None:
    inventory = (site / "objects.inv").read_bytes()
    documented = {line.split()[0] for line in zlib.decompress(inventory.partition(b"zlib.\n")[2]).decode().splitlines()}
    module = importlib.import_module(package)
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        home = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"
        if not {f"{package}.{name}", home} & documented:
            missing.append(name)
    assert missing == []


def test_every_command_is_in_the_reference() -> None:
    rows = [line for line in (DOCS / "api/commands.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `ebt ")]
    assert set(re.findall(r"`ebt (\w+)`", "".join(row.split(" | ")[0] for row in rows))) == set(COMMANDS)


def test_notebooks_become_pages(site: Path) -> None:
    for notebook in (DOCS / "start").glob("*.ipynb"):
        folder = site / "start" / notebook.stem
        page = (folder / "index.html").read_text(encoding="utf-8")
        assert f'href="../{notebook.name}"' in page
        assert re.search(r'<div class="[^"]*output[^"]*">', page)
        assert ".md" not in re.sub(r"<code.*?</code>", "", page, flags=re.DOTALL)


def test_faults_fail_the_build() -> None:
    validation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["validation"]
    assert {level for group in validation.values() for level in group.values()} == {"warn"}
    assert set(validation["links"]) == {"not_found", "anchors", "absolute_links", "unrecognized_links"}


def test_the_paper_in_code_shows_the_code(site: Path) -> None:
    page = (site / "how-it-works/index.html").read_text(encoding="utf-8")
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "y, kept = moved(update, y, direction, rows.part(alpha), kept)  # y[i+1] = y[i] - alpha dE/dy" in shown
    assert "return -alpha * direction, memory" in shown
    assert "@source" not in shown
    assert '"""' not in shown


def test_dialogs_have_names(site: Path) -> None:
    dialogs = re.findall(r'<[^>]*role="dialog"[^>]*>', (site / "index.html").read_text(encoding="utf-8"))
    assert dialogs
    assert all("aria-label" in dialog for dialog in dialogs)
