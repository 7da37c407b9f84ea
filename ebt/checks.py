"""Type and range checks of settings and arguments."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ebt.errors import InputError


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ``ValueError`` if a value does not match a type hint. An int is accepted as a float; a bool is neither."""
    if get_origin(hint) is Literal and not _fits(value, hint):
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(get_args(hint))}")
    if not _fits(value, hint):
        shown = str(hint).replace("typing.", "").removeprefix("<class '").removesuffix("'>").replace("None", "null")
        raise ValueError(f"{name} is {value!r}: give a value of type {shown}")


def check_range(name: str, value: Any, least: float, most: float) -> None:
    """Raise ``ValueError`` if a number is outside [least, most]. None always passes."""
    if value is not None and not least <= value <= most:
        bound = "" if most == math.inf else f" and at most {most}"
        raise ValueError(f"{name} is {value}: give a number of at least {least}{bound}")


def check_kind(name: str, value: Any, kind: type, remedy: str) -> None:
    """Raise ``ValueError`` if a value is no object of a class. None always passes."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}: {remedy}")


def as_tensor(name: str, value: Any, like: Tensor | None = None) -> Tensor:
    """A tensor, a number, an array or nested lists as a tensor, with dtype and device of ``like``.

    Raises:
        InputError: If it is something else.
    """
    try:
        return torch.as_tensor(value) if like is None else torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is {reprlib.repr(value)}, which cannot be made a tensor: {error}") from error


def name_of(given: Any) -> str:
    """Name of a function, or of the class of an object, for errors."""
    return str(getattr(given, "__qualname__", type(given).__name__))


def shown(value: Any) -> str:
    """What a value is, for errors: dtype and shape of tensors, also in a tuple; else the type."""
    if isinstance(value, tuple):
        return f"({', '.join(shown(each) for each in value)})"
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@cache  # evaluating hints takes longer than checking them, and every call of a model checks its options
def type_hints(kind: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of a class or a function."""
    return get_type_hints(kind)


def check_fields(settings: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise ``ValueError`` for the first field of a dataclass with a wrong type or a value outside its ``limits``."""
    kind: type = type(settings)
    hints = type_hints(kind)
    for field in fields(settings):
        value = getattr(settings, field.name)
        check_type(field.name, value, hints[field.name])
        if field.name in limits:
            check_range(field.name, value, *limits[field.name])


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint in (int, float):
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) < (2**63 if hint is int else 2**53)
        return hint is float and isinstance(value, float) and math.isfinite(value)
    if isinstance(hint, type) and hint is not Any:
        return isinstance(value, hint)
    return origin not in (dict, list) or isinstance(value, origin)
