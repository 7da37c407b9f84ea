"""Names the search of the theme for screen readers."""

from __future__ import annotations

from typing import Any

UNNAMED = '<div class="md-search" data-md-component="search" role="dialog">'


def on_post_page(output: str, **_: Any) -> str:
    """Return the page with a name for its search."""
    return output.replace(UNNAMED, UNNAMED.replace(">", ' aria-label="Search">'))
