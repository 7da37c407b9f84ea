"""Recorded runs of the published code, recomputed and compared tensor by tensor."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import images, text, video
from ebt.interop.reference.recorded import Case, Draws, Tensors

RUNS = ("s1", "s2", "nodetach", "s2rand", "s2replay", "s2eval", "infer", "s1_probdist", "train")
"""The runs that can be recomputed."""
PRECISIONS = ("f64", "f32")
F64_TOLERANCE = 1e-9
F32_FACTOR = 3.0
"""How much further than the truth itself, in float64, a float32 record may lie from our result."""
F32_LIMIT = 1e-3
F32_RESOLUTION = 2.0**-23
"""The unit in the last place of float32."""


@dataclass(frozen=True)
class Row:
    """The comparison of one group of tensors of one run."""

    case: str
    run: str
    group: str
    tensors: int
    deviation: float
    """Largest difference of any tensor from its record, relative to the tensor's largest entry. Of a float32 record: that of
    our result computed in float64 and then rounded to float32, for how another float32 computation is rounded is luck."""
    tolerance: float
    rounding: float | None = None
    """Of a float32 record: largest difference between our results computed in float32 and in float64."""
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.deviation <= self.tolerance and (self.rounding or 0.0) <= F32_LIMIT

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def find_cases(folder: Path) -> dict[str, list[str]]:
    """The runs (with their precision, ``s1_f64``) of every case in a folder.

    Raises:
        InputError: no such folder, or nothing recorded in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one with CASE.weights.safetensors and CASE.RUN_f64.safetensors in it")
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        case, _, run = file.name.removesuffix(".safetensors").partition(".")
        if run == "weights":
            found.setdefault(case, [])
        elif run.endswith(tuple(f"_{name}" for name in PRECISIONS)):
            found.setdefault(case, []).append(run)
    if not any(found.values()):
        raise InputError(f"{folder} holds no recorded run: give one with CASE.weights.safetensors and CASE.RUN_f64.safetensors")
    return found


def check(folder: Path, case: str, run: str) -> list[Row]:
    """Recompute one run (``s1_f64``) of a case and compare it with its record; what goes wrong is a row, too."""
    name, _, precision = run.rpartition("_")
    try:
        if name not in RUNS:
            raise InputError(f"the run {name} is not known: it must be one of {', '.join(RUNS)}")
        info = _info(folder, case)
        recorded = _tensors(folder / f"{case}.{run}.safetensors")
        tolerances = _tolerances(info, name, precision, recorded)
        exact = _recompute(folder, case, name, info, torch.float64, recorded)
        rounded = _recompute(folder, case, name, info, torch.float32, recorded) if precision == "f32" else repeat(None)
        return _best(_compare(case, run, recorded, *found, tolerances) for found in zip(exact, rounded, strict=False))
    except (ValueError, ArithmeticError, LookupError, TypeError, RuntimeError) as error:
        return [Row(case, run, "run", 0, math.inf, 0.0, problem=f"{type(error).__name__}: {error}")]


def _best(attempts: Iterator[list[Row]]) -> list[Row]:
    """The first attempt that holds, or else the one that comes nearest."""
    missed = []
    for rows in attempts:
        if all(row.ok for row in rows):
            return rows
        missed.append(rows)
    return min(missed, key=lambda rows: max(row.deviation for row in rows))


def _info(folder: Path, case: str) -> dict[str, Any]:
    path = folder / f"{case}.json"
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return info
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): it must hold the case's hyper-parameters") from error


def _tensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it again") from error


def _recompute(
    folder: Path, case: str, run: str, info: Mapping[str, Any], dtype: torch.dtype, recorded: Tensors
) -> Iterator[Tensors]:
    overrides = info["runs"].get(run, {}).get("overrides") or {}
    hparams = {**info["hparams"], **overrides}
    weights, inputs = (_tensors(folder / f"{case}.{kind}.safetensors") for kind in ("weights", "inputs"))
    if run.endswith("probdist"):  # recorded with the weights of a model that has a table for candidates
        weights.pop("vocab_to_embed.weight", None)
    path = folder / f"{case}.{run}_draws.safetensors"
    drawn = _tensors(path) if path.is_file() else {}
    draws = Draws([(name.rpartition(".")[2], drawn[name]) for name in sorted(drawn)], dtype)
    if run.endswith("rand") and not drawn:
        raise InputError(f"{path} is missing: the run's random draws must be there")
    subject = Case(hparams, weights, inputs, dtype)
    kind = case.partition("_")[0]
    if kind == "text":
        yield from text.recompute(subject, run, draws, recorded)
    elif kind == "vid":
        yield from video.recompute(subject, run, draws, recorded)
    elif kind == "img":
        yield images.recompute(subject, draws, info)
    else:
        raise InputError(f"the case {case} is not known: its name must begin with text_, vid_ or img_")


def _group(name: str) -> str:
    return re.split(r"\.", name)[0]


def _tolerances(info: Mapping[str, Any], run: str, precision: str, recorded: Tensors) -> dict[str, float]:
    groups = {_group(name) for name in recorded}
    if precision == "f64":
        return dict.fromkeys(groups, F64_TOLERANCE)
    own = info["runs"][run]["f32_vs_f64"]
    return {group: min(F32_LIMIT, max(F32_FACTOR * (own.get(group) or 0.0), F32_RESOLUTION)) for group in groups}


def _compare(
    case: str, run: str, recorded: Tensors, exact: Tensors, rounded: Tensors | None, tolerances: Mapping[str, float]
) -> list[Row]:
    groups: dict[str, list[str]] = {}
    for name in recorded:
        groups.setdefault(_group(name), []).append(name)
    rows = []
    for group, names in groups.items():
        if missing := [name for name in names if name not in exact]:
            rows.append(
                Row(case, run, group, len(names), math.inf, tolerances[group], problem=f"{missing[0]} is not recomputed")
            )
            continue
        deviation = max(_deviation(exact[name].to(recorded[name].dtype), recorded[name]) for name in names)
        rounding = None if rounded is None else max(_deviation(rounded[name], exact[name]) for name in names)
        rows.append(Row(case, run, group, len(names), deviation, tolerances[group], rounding))
    return rows


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    if ours.numel() != theirs.numel():
        return math.inf
    ours, theirs = ours.detach().double().reshape(theirs.shape), theirs.detach().double()
    largest = theirs.abs().max().item()
    difference = (ours - theirs).abs().max().item()
    return math.inf if difference != difference else difference / (largest or 1.0)
