"""Runs of a study: their settings, stored results and parallel execution."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt.errors import InputError
from ebt.files import write_json
from ebt.lab.studies.pool import Board, Report, bars, pool, teller

Json = Mapping[str, Any]
Work = Callable[[Json, Json, Report], dict[str, Any]]
"""Executes a run, given its settings, its places and a progress callback. Returns a JSON object."""
PACKAGES = ("energy-based-transformers", "torch", "lightning", "transformers")


@dataclass(frozen=True, eq=False)
class Run:
    """A training or measurement."""

    name: str
    """Short name, unique among the runs of a study."""
    work: Work
    """A module-level function, so that other processes can import it."""
    settings: Json
    """All settings that the result depends on, as JSON."""
    folder: Path
    """Folder of the result."""
    places: Json = field(default_factory=dict)
    """Paths and other values that the work needs and the result does not depend on."""
    product: Path | None = None
    """A file written to one of its places that other runs need."""
    cost: float = 1.0
    """Relative cost."""

    @property
    def key(self) -> str:
        """Name and fingerprint of the settings. Different runs never share a file."""
        return f"{self.name.replace(' ', '-')}-{fingerprint(self.settings)}"

    @property
    def paths(self) -> set[str]:
        """The places that are paths."""
        return {place for place in self.places.values() if isinstance(place, str)}

    @property
    def path(self) -> Path:
        """The result file."""
        return self.folder / f"{self.key}.json"


@dataclass(frozen=True)
class Result:
    """The result of a finished run."""

    settings: Json
    values: Json
    seconds: float
    machine: Json


def fingerprint(settings: Json) -> str:
    """Return a fingerprint of settings: ten hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def load(run: Run) -> Result | None:
    """Load the result of a run, None if it has not finished.

    Raises:
        InputError: The file is not a valid result of the run.
    """
    if not run.path.is_file():
        return None
    try:
        result = Result(**json.loads(run.path.read_text(encoding="utf-8")))
        if not all(isinstance(part, dict) for part in (result.settings, result.values, result.machine)):
            raise TypeError("a field has the wrong type")
        if fingerprint(result.settings) != fingerprint(run.settings):
            raise ValueError("it was made with other settings")
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{run.path} is not a result of this run ({error}): delete it to repeat the run.") from error
    return result


def collect(stages: Sequence[Sequence[Run]], jobs: int, console: Console, devices: Sequence[str] = ()) -> dict[str, Result]:
    """Return the results of all runs by key. Missing runs are executed, ``jobs`` at a time, each on one of the ``devices``.

    Raises:
        InputError: A result file is broken, a run refuses its input, or a process died.
    """
    stages = _distinct(stages)
    runs = [run for stage in stages for run in stage]
    found = {run.key: result for run in runs if (result := load(run)) is not None}
    for key in _unfounded(runs, found.keys()):
        found.pop(key, None)
    console.print(f"{len(runs)} runs, {len(found)} of them finished before.", highlight=False)
    missing = [[run for run in stage if run.key not in found] for stage in stages]
    if any(missing):
        for folder in {run.folder for run in runs}:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            _execute(missing, min(jobs, max(map(len, missing))), console, devices)
        except BrokenProcessPool as error:
            raise InputError(
                "A process died, possibly because memory ran out. Finished runs are kept: run the same command to continue, "
                "with a smaller --jobs to need less memory."
            ) from error
        found |= {run.key: result for stage in missing for run in stage if (result := load(run)) is not None}
    return found


def _unfounded(runs: Sequence[Run], found: Collection[str]) -> set[str]:
    """Return the runs to repeat because a product is gone that a run without result needs: the run that makes it, and all runs
    that use it, because a new product may differ."""
    gone = {str(run.product.parent) for run in runs if run.product is not None and not run.product.exists()}
    needed = {place for run in runs if run.key not in found for place in run.paths if place in gone}
    return {run.key for run in runs if needed & run.paths}


def _distinct(stages: Sequence[Sequence[Run]]) -> list[list[Run]]:
    """Keep each run once, in the first stage that has it."""
    seen: set[str] = set()
    kept = []
    for stage in stages:
        fresh = {run.key: run for run in stage if run.key not in seen}
        seen |= fresh.keys()
        kept.append(list(fresh.values()))
    return kept


def _execute(stages: Iterable[Sequence[Run]], jobs: int, console: Console, devices: Sequence[str]) -> None:
    """Execute the runs. Of those that are ready, later stages come first, so that trained models are measured early."""
    waiting = [run for stage in reversed(list(stages)) for run in stage]
    total, began, failures = len(waiting), time.monotonic(), list[tuple[Run, Exception]]()
    work, worked = sum(run.cost for run in waiting), 0.0
    with pool(jobs, 1, devices) as (workers, messages), bars(console) as progress:
        board, running = Board(progress, messages), dict[Future[float], Run]()
        board.show(f"all {total} runs", 0, work)
        while waiting or running:
            for run in _ready(waiting, list(running.values()), failures)[: jobs - len(running)]:
                waiting.remove(run)
                arguments = (messages, run.name, run.work, run.settings, run.path, run.places)
                running[workers.submit(_run, *arguments)] = run
            if not running:
                break
            ended, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            board.read()
            for future in ended:
                run = running.pop(future)
                worked += run.cost
                _tell(run, future, failures, console)
                board.drop(run.name)
            ahead = worked + sum(run.cost * board.share(run.name) for run in running.values())
            speed = 60 * total * ahead / work / (time.monotonic() - began)
            done = total - len(waiting) - len(running)
            board.show(f"all {total} runs", ahead, work, f"{done} done, {speed:.2g} a minute")
            board.print_now_and_then()
    if failures:
        console.print(f"{len(failures)} runs failed; finished runs are kept. The first failure, {failures[0][0].name}:")
        raise failures[0][1]


def _ready(waiting: Sequence[Run], running: Sequence[Run], failures: Sequence[tuple[Run, Exception]]) -> list[Run]:
    """Return the runs that do not depend on unfinished or failed runs."""
    missing = {str(run.product.parent) for run in (*waiting, *running, *(run for run, _ in failures)) if run.product}
    return [run for run in waiting if run.product is not None or not missing & run.paths]


def _tell(run: Run, future: Future[float], failures: list[tuple[Run, Exception]], console: Console) -> None:
    """Report the end of a run. A failure does not stop the others, unless its process died."""
    try:
        console.print(f"{run.name}: {future.result():.1f} s", highlight=False)
    except BrokenProcessPool:
        raise
    except SystemExit as error:  # raised by Lightning on SIGTERM during training
        raise BrokenProcessPool(f"{run.name} was ended") from error
    except Exception as error:
        failures.append((run, error))
        console.print(f"{run.name} failed: {error}", markup=False, highlight=False)


def _run(messages: Any, name: str, work: Work, settings: Json, path: Path, places: Json) -> float:
    """Execute a run in its own process, write the result, and return the seconds."""
    began = time.monotonic()
    values = work(settings, places, teller(messages, name))
    seconds = time.monotonic() - began
    write_json({"settings": settings, "values": values, "seconds": seconds, "machine": machine()}, path)
    return seconds


def machine() -> dict[str, Any]:
    """Return processor, cores and versions of this machine."""
    import torch  # imported here so that help and errors do not wait for it

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if torch.cuda.is_available():
        names = [f"{torch.cuda.get_device_name()}, {names[0] if names else platform.machine()}"]
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    return {"processor": names[0] if names else platform.machine(), "cores": os.cpu_count(), "versions": versions}
