"""Recompute recorded runs of the published code and compare them tensor by tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference.runs import Draws, Run, recompute
from ebt.interop.reference.weights import Tensors

RANDOM = ("randomize_mcmc_num_steps", "langevin_dynamics_noise", "mcmc_replay_buffer", "infer_ebt_advanced")
"""Hyper-parameters that make a run random, in addition to the spread of step sizes."""
PRECISIONS = ("f64", "f32")
F64_TOLERANCE = 1e-9
F32_FACTOR = 3.0
"""Tolerance factor of a float32 record, relative to its deviation from the float64 result."""
F32_LIMIT = 1e-3
F32_RESOLUTION = 2.0**-23
"""Unit in the last place of float32."""


@dataclass(frozen=True)
class Row:
    """The comparison of a group of tensors of a run."""

    case: str
    run: str
    group: str
    tensors: int
    deviation: float
    """Largest difference of a tensor from its record, relative to the tensor's largest entry. A float32 record is compared with
    the float64 result rounded to float32, because rounding of other float32 computations is arbitrary."""
    tolerance: float
    rounding: float | None = None
    """Largest difference between this library's float32 and float64 results, for a float32 record."""
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem and self.deviation <= self.tolerance and (self.rounding or 0.0) <= F32_LIMIT

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def find_cases(folder: Path) -> dict[str, list[str]]:
    """Return the runs of each case in a folder, with their precision (for example ``s1_f64``).

    Raises:
        InputError: The folder does not exist or has no recorded run.
    """
    if not folder.is_dir():
        raise InputError(
            f"not a directory: {folder}. Give a directory with CASE.weights.safetensors and CASE.RUN_f64.safetensors"
        )
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        case, _, run = file.name.removesuffix(".safetensors").partition(".")
        if run == "weights":
            found.setdefault(case, [])
        elif run.endswith(tuple(f"_{name}" for name in PRECISIONS)):
            found.setdefault(case, []).append(run)
    if not any(found.values()):
        raise InputError(
            f"no recorded run in {folder}: give a directory with CASE.weights.safetensors and CASE.RUN_f64.safetensors"
        )
    return found


def check(folder: Path, case: str, run: str) -> list[Row]:
    """Recompute one run (``s1_f64``) of a case and compare it with its record. An error is returned as a row."""
    name, _, precision = run.rpartition("_")
    try:
        info = _info(folder, case)
        if name not in info["runs"]:
            raise InputError(f"the run {name} is not in {case}.json: it must be one of {', '.join(info['runs'])}")
        recorded = _tensors(folder / f"{case}.{run}.safetensors")
        exact = recompute(_run(folder, case, name, info, torch.float64))
        rounded = recompute(_run(folder, case, name, info, torch.float32)) if precision == "f32" else None
        return _compare(case, run, recorded, exact, rounded, _tolerances(info, name, precision, recorded))
    except (ValueError, ArithmeticError, LookupError, TypeError, RuntimeError) as error:
        return [Row(case, run, "run", 0, math.inf, 0.0, problem=f"{type(error).__name__}: {error}")]


def _info(folder: Path, case: str) -> dict[str, Any]:
    path = folder / f"{case}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): it must contain the case's hyper-parameters") from error


def _tensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy it again") from error


def _run(folder: Path, case: str, run: str, info: Mapping[str, Any], dtype: torch.dtype) -> Run:
    """Return the weights and inputs of a run in a floating-point precision. Integers are unchanged."""
    hparams = {**info["hparams"], **(info["runs"][run].get("overrides") or {})}
    path = folder / f"{case}.{run}_draws.safetensors"
    random = any(hparams.get(name) for name in RANDOM) or hparams.get("randomize_mcmc_step_size_scale", 1) != 1
    if random and not run.endswith("eval") and not path.is_file():
        raise InputError(f"{path} is missing: give the file with the run's random draws")
    files = {kind: folder / f"{case}.{kind}.safetensors" for kind in ("weights", "inputs")}
    found = {kind: _tensors(file) for kind, file in files.items()} | {"draws": _tensors(path) if path.is_file() else {}}
    weights, inputs, drawn = (
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
        for tensors in found.values()
    )
    if hparams.get("vocab_to_embed_uses_prob_dist"):  # the weights also belong to runs with a candidate embedding
        weights.pop("vocab_to_embed.weight", None)
    order = sorted(drawn, key=lambda name: int(name.split(".")[1]))
    return Run(hparams, weights, inputs, Draws([(name.rpartition(".")[2], drawn[name]) for name in order]))


def _group(name: str) -> str:
    return name.partition(".")[0]


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
