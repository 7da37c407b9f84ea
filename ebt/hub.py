"""Where model folders saved by earlier versions look for their classes."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from ebt import problems

    return getattr(problems, name)
