"""Opens the source code on the page that explains it. Elsewhere it stays closed."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.pages import Page

CLOSED = '<details class="mkdocstrings-source">'


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Return the page with its sources open."""
    return html.replace(CLOSED, CLOSED.replace(">", " open>")) if page.file.src_uri == "how-it-works.md" else html
