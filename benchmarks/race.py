"""Measure contestants side by side: each in its own process, one turn each per round."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

Turn = Callable[[], None]
PRELOAD = ["lightning", "transformers.modeling_utils", "transformers.generation.utils"]
"""Slow imports, done once by the server that forks all contestants. Importing this library takes 0.1 s."""


@dataclass(frozen=True)
class Contestant:
    """Something to measure."""

    name: str
    make: Callable[[], tuple[Turn, Turn]]
    """Returns a small turn for warm-up and the turn to measure; called in the contestant's process."""


@dataclass(frozen=True)
class Measured:
    """Time and memory of a contestant's turns."""

    seconds: float
    """Median wall time of a turn."""
    cpu_seconds: float
    """Median processor time of a turn, which depends less on other load."""
    memory: float | None
    """Peak resident memory in MB above that after the small turn; None if the system does not report it."""


def race(contestants: Sequence[Contestant], rounds: int, threads: int) -> dict[str, Measured]:
    """Measure contestants by turns.

    Args:
        contestants: Contestants. ``make`` must be importable, as for ``multiprocessing``.
        rounds: Measured turns of each contestant, after one that is not measured.
        threads: Threads of torch in each process.

    Raises:
        RuntimeError: The process of a contestant has ended.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(PRELOAD)
    runners = []
    for contestant in contestants:
        here, there = context.Pipe()
        process = context.Process(target=_run, args=(contestant.make, there, threads), daemon=True)
        process.start()
        there.close()
        _receive(here, contestant.name)
        runners.append((contestant.name, process, here))
    turns: dict[str, list[Measured]] = {name: [] for name, _, _ in runners}
    for _ in range(rounds):
        for name, _, pipe in runners:
            pipe.send(True)
            turns[name].append(Measured(*_receive(pipe, name)))
    for _, process, pipe in runners:
        pipe.send(False)
        process.join()
    return {name: _summary(measured) for name, measured in turns.items()}


def _receive(pipe: Connection, name: str) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError(f"the process of {name} has ended: it ran out of memory, or see its message above") from error


def _summary(turns: list[Measured]) -> Measured:
    memory = [turn.memory for turn in turns if turn.memory is not None]
    seconds, cpu = (median(getattr(turn, name) for turn in turns) for name in ("seconds", "cpu_seconds"))
    return Measured(seconds, cpu, max(memory) if memory else None)


def _run(make: Callable[[], tuple[Turn, Turn]], pipe: Connection, threads: int) -> None:
    gc.freeze()  # collecting what the server has imported takes longer than many a turn
    torch.set_num_threads(threads)
    small, turn = make()
    small()
    gc.collect()
    base = _memory("VmRSS")
    turn()
    pipe.send(None)
    while pipe.recv():
        gc.collect()
        _forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        turn()
        took = (time.perf_counter() - wall, time.process_time() - cpu)
        peak = _memory("VmHWM")
        pipe.send((*took, None if peak is None or base is None else peak - base))


def _memory(field: str) -> float | None:
    """Resident memory now (VmRSS) or at its largest (VmHWM), in MB, on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), None)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def options(description: str | None, contestants: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Command-line options shared by the benchmarks, and ``--only`` for ``contestants``, of which the first always runs."""

    def chosen(text: str) -> tuple[str, ...]:
        names = [name.strip() for name in text.split(";")]
        if wrong := [name for name in names if name not in contestants]:
            raise argparse.ArgumentTypeError(f"no contestant {wrong[0]!r}: give some of {'; '.join(contestants)}")
        return (contestants[0], *(name for name in names if name != contestants[0]))

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="measured turns per contestant (default: 5; quick: 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="per process (default: all cores)")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="clock for ratios; on a busy machine use cpu with --threads 1"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers into this file")
    if contestants:
        what = f"contestants next to {contestants[0]}, from {'; '.join(contestants[1:])}"
        parser.add_argument("--only", type=chosen, default=tuple(contestants), metavar="A;B;..", help=what)
    return parser


def seconds(measured: Measured, clock: str) -> float:
    return measured.seconds if clock == "wall" else measured.cpu_seconds


def write(path: str | None, settings: argparse.Namespace, results: Sequence[Any], console: Console) -> None:
    """Write settings, results and the machine with its versions as one JSON object."""
    from ebt.files import write_json  # imported here so that contestants begin without the library
    from ebt.lab.studies.runs import machine

    if path is None:
        return
    content = {
        "settings": {name: value for name, value in vars(settings).items() if name != "json"},
        "results": [result if isinstance(result, dict) else asdict(result) for result in results],
        "machine": machine(),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(content, path)
    console.print(f"wrote {path}", highlight=False)
