"""Names the search of the theme for screen readers, and lets the keyboard scroll wide tables."""

from __future__ import annotations

from typing import Any

UNNAMED = '<div class="md-search" data-md-component="search" role="dialog">'


def on_post_page(output: str, **_: Any) -> str:
    """Return the page with a name for its search, and with tables that take the focus."""
    named = output.replace(UNNAMED, UNNAMED.replace(">", ' aria-label="Search">'))
    return named.replace("<table>", '<table tabindex="0">')
