"""What the updates of a planned run really take on this machine, in bytes; for a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
from pathlib import Path
from typing import Any

import torch

from ebt.cli.plan import PlannedRun, planned_run


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def largest() -> int:
    """The most bytes that this process had in memory; ``getrusage`` would count the process that started it, too."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def update(run: PlannedRun, optimiser: torch.optim.Optimizer, batch: int) -> None:
    task = run.task
    words = torch.zeros(run.rows(batch), run.context, dtype=torch.long)
    loss = task.learn({"input_ids": words, "targets": words}).loss
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def build(run: PlannedRun, vocabulary: int, dim: int | None = None) -> torch.optim.Optimizer:
    task: Any = run.task
    network = task.network
    config = {"layers": 1, "dim": dim, "heads": 1} if dim else {}
    kind = type(network)(kind=network.kind, **config) if dim else network
    task.model = kind.build(vocabulary, run.context, task.recipe, task.steps)
    task.draw_schedule = lambda: run.schedule(task.recipe.max_steps)
    task.budget = lambda: 1.0  # after a warm start
    optimiser: torch.optim.Optimizer = task.optimisation.optimiser(task)
    return optimiser


def fill_buffers(run: PlannedRun, vocabulary: int) -> None:
    """Multiply matrices of the run's largest shapes: the BLAS library allocates buffers for them, and keeps these."""
    dim = run.task.network.dim
    assert dim is not None
    states, words = torch.ones(run.rows(run.batch) * run.context, dim), torch.ones(dim, vocabulary)
    (states @ words).T @ states @ words


def main(arguments: list[str], vocabulary: int) -> None:
    """Print what weights, gradients and states take, and an update beside them, as JSON."""
    allocator = ctypes.CDLL(None)
    for parameter, value in (
        (-3, 16384),
        (-1, 0),
        (-2, 0),
    ):  # threshold of mmap, of trimming, padding: what is free is given back
        assert allocator.mallopt(parameter, value)
    run = planned_run(arguments, vocabulary)
    optimiser = build(run, 8, dim=8)  # whatever libraries take at their first call
    update(run, optimiser, 1)
    fill_buffers(run, vocabulary)
    before = resident()
    optimiser = build(run, vocabulary)
    update(run, optimiser, 1)
    steady = resident()
    update(run, optimiser, run.batch)
    print(json.dumps({"steady": steady - before, "update": largest() - steady}))
