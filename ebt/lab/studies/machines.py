"""What runs are spread over: the devices of a machine, the jobs of a SLURM array."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ebt.errors import InputError

T = TypeVar("T")
INDEX, COUNT, FIRST, LAST, STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP"))


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(wanted: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """CUDA devices, as CUDA_VISIBLE_DEVICES names them: all visible ones for ``cuda``, or for ``auto`` if there are any; none
    for ``cpu``.

    Raises:
        InputError: ``cuda``, and there is none.
    """
    import torch

    if wanted == "cpu":
        return []
    count = torch.cuda.device_count()
    if wanted == "cuda" and not count:
        raise InputError("--device cuda, and no CUDA device is visible: choose cpu, or check CUDA_VISIBLE_DEVICES.")
    named = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(i) for i in range(count)])[:count]


def array_share(environ: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Which job of a SLURM array this is, from 0, and of how many; None outside of one.

    Raises:
        InputError: the variables of the array are no numbers, or contradict each other.
    """
    if INDEX not in environ:
        return None
    try:
        index, count = int(environ[INDEX]), int(environ[COUNT])
        first, step = int(environ.get(FIRST, "0")), int(environ.get(STEP, "1"))
        share, last = (index - first) // step, int(environ.get(LAST, first + step * (count - 1)))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{INDEX} is set, but {COUNT} (or {FIRST}, {STEP}) is none: {error}. Set both, or unset them."
        ) from error
    if not 0 <= share < count or (index - first) % step:
        raise InputError(f"{INDEX} is {index}, which is none of {count} jobs from {first} on: set both right, or unset them.")
    if last != first + step * (count - 1):
        raise InputError(
            f"the array has {count} jobs between {first} and {last}, with gaps, and their shares would not be those of the "
            "whole array: submit the whole one again; what has finished is not repeated."
        )
    return share, count


def share_of(runs: Sequence[T], share: tuple[int, int]) -> list[T]:
    """Every so-many-th run, so that jobs of an array have about as much to do if runs are sorted by their work."""
    index, count = share
    return list(runs[index::count])
