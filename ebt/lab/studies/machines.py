"""Distribution of runs over the devices of a machine and the jobs of a SLURM array."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ebt.errors import InputError

T = TypeVar("T")
INDEX, COUNT, FIRST, LAST, STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP"))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(wanted: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the visible CUDA devices, as in CUDA_VISIBLE_DEVICES; none for ``cpu``.

    Raises:
        InputError: ``wanted`` is ``cuda``, and there is no device.
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
    """Return the index (from 0) and the number of jobs of this SLURM array, or None outside an array.

    Raises:
        InputError: The variables of the array are not numbers, or contradict each other.
    """
    if INDEX not in environ:
        return None
    try:
        index, count = int(environ[INDEX]), int(environ[COUNT])
        first, step = int(environ.get(FIRST, "0")), int(environ.get(STEP, "1"))
        share, last = (index - first) // step, int(environ.get(LAST, first + step * (count - 1)))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{INDEX} is set, but {COUNT} (or {FIRST}, {STEP}) is not valid: {error}. Set both, or unset them."
        ) from error
    if not 0 <= share < count or (index - first) % step:
        raise InputError(f"{INDEX} is {index}, which is not one of {count} jobs from {first} on: correct both, or unset them.")
    if last != first + step * (count - 1):
        raise InputError(
            f"the array has {count} jobs between {first} and {last}, with gaps, and their shares would differ from those of "
            "the whole array: submit the whole one again; finished runs are not repeated."
        )
    return share, count


def share_of(runs: Sequence[T], share: tuple[int, int]) -> list[T]:
    """Return every n-th run. If the runs are sorted by cost, all n jobs get about the same work."""
    index, count = share
    return list(runs[index::count])
