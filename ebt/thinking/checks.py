"""Types of settings, checked where they come in: files and command lines hand over anything."""

from __future__ import annotations

import math
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def check_type(name: str, value: Any, hint: Any) -> None:
    """Whether a value is of the type that a hint says; whole numbers serve as numbers, truth values as neither.

    Raises:
        ValueError: naming it.
    """
    if not _fits(value, hint):
        shown = str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>").replace("None", "null")
        raise ValueError(f"{name} is {value!r}: give a value of type {shown}")


def check_fields(settings: Any) -> None:
    """Whether every field of a dataclass has a value of its type.

    Raises:
        ValueError: naming the first that has not.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        check_type(field.name, getattr(settings, field.name), hints[field.name])


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return True  # whoever has choices names them
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    if hint in (bool, str, NoneType):
        return isinstance(value, hint)
    return origin is not dict or isinstance(value, dict)
