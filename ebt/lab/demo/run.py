"""The run of ``ebt demo``."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ebt.cli.terminal import out_folder, say_written
from ebt.lab.demo import jobs, report
from ebt.lab.studies.pool import Board, bars, pool, teller


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    console, out = Console(), Path(args.out)
    out_folder(str(out / "models"))
    settings = jobs.Settings.quick(args.seed) if args.quick else jobs.Settings(args.seed)
    processes = args.processes or min(len(jobs.MODELS), os.cpu_count() or 1)
    console.print(f"Training {len(jobs.MODELS)} models, {processes} at a time. Results are written to {out}/.\n")
    began = time.monotonic()
    made = _run(settings, out / "models", processes, console)
    results = collect(settings, made, time.monotonic() - began)
    torch.set_num_threads(1)  # single boards: more threads only slow each other down
    report.write(results, made, out, settings.seed)
    report.show(results, console)
    say_written(console, [out / "report.html", out / "results.json"])
    console.print(f"Next: ebt solve --checkpoint {shlex.quote(f'{out}/models/sudoku-ebt')} --givens 10", highlight=False)
    return 0


def _run(settings: jobs.Settings, folder: Path, processes: int, console: Console) -> dict[str, Any]:
    """Run all jobs, ``processes`` at a time. A job that needs a model or its training time starts when that is available."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    made: dict[str, Any] = {}
    with pool(processes, threads) as (workers, messages), bars(console) as progress:
        board = Board(progress, messages)
        running: dict[Future[Any], str] = {}

        def train(after: str | None, seconds: float | None) -> None:
            for name, model in jobs.MODELS.items():
                if model.time_of == after:
                    running[workers.submit(_train, messages, name, settings, folder / name, seconds)] = name

        train(None, None)
        while running:
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            board.read()
            board.print_now_and_then()
            for future in done:
                name = running.pop(future)
                made[name] = future.result()
                if name in jobs.MODELS:
                    train(name, made[name]["train_seconds"])
                if name == "sudoku-ebt":
                    for candidates, givens in ((many, givens) for many in (jobs.CANDIDATES, 1) for givens in jobs.GIVENS):
                        label = solving(candidates, givens)
                        job = (messages, label, settings, folder / name, givens, candidates)
                        running[workers.submit(_solve, *job)] = label
        board.read()
    made["sudoku-ebt"]["curves"] = {givens: made[solving(1, givens)] for givens in jobs.GIVENS}
    return made


def solving(candidates: int, givens: int) -> str:
    """Return the name of the job in which the EBT solves boards."""
    return f"{candidates} candidate{'s' if candidates > 1 else ''}, {givens} givens"


def _train(messages: Any, name: str, settings: jobs.Settings, folder: Path, seconds: float | None) -> dict[str, Any]:
    """Train a model in its own process."""
    tell, model = teller(messages, name), jobs.MODELS[name]
    tell(0, 1, "preparing data")
    job = jobs.train_sudoku if model.problem == "sudoku" else jobs.train_text
    return job(settings, folder, model.kind, seconds, tell)


def _solve(messages: Any, name: str, settings: jobs.Settings, folder: Path, givens: int, candidates: int) -> dict[str, Any]:
    tell = teller(messages, name)
    tell(0, 1, "preparing data")
    return jobs.solve(settings, folder, givens, candidates, tell)


def collect(settings: jobs.Settings, made: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the values of ``results.json``. Keys are strings, fractions are in [0, 1], and times are processor seconds."""
    boards = {name: _by_givens(made[name]["curves"]) for name, model in jobs.MODELS.items() if model.problem == "sudoku"}
    verified = {givens: made[solving(jobs.CANDIDATES, givens)] for givens in jobs.GIVENS}
    nats = {split: _nats(curve) for split, curve in made["text-ebt"]["curves"].items()}
    return {
        "sudoku": boards["sudoku-ebt"],
        "sudoku_verified": _by_givens(verified),
        "sudoku_feedforward": _once(boards["sudoku-feed-forward"]),
        "sudoku_feedforward_equal_time": _once(boards["sudoku-feed-forward-equal-time"]),
        "sudoku_looped": boards["sudoku-looped"],
        "sudoku_looped_equal_time": boards["sudoku-looped-equal-time"],
        "text": {
            "ebt": nats["test"],
            "ebt_validation": nats["validation"],
            "best_steps": jobs.best_steps(made["text-ebt"]["curves"]["validation"]),
            "lowest_trained_steps": settings.text_task("ebt").recipe.min_steps,
            "transformer_pp": _nats(made["text-transformer-pp"]["curves"]["test"])["1"],
            "transformer_pp_equal_time": _nats(made["text-transformer-pp-equal-time"]["curves"]["test"])["1"],
            "corpus": made["text-ebt"]["data"],
        },
        "seeds": [settings.seed],
        **{key: {name: made[name][key] for name in jobs.MODELS} for key in ("parameters", "updates", "train_seconds")},
        "candidates": jobs.CANDIDATES,
        "boards": {"one_candidate": settings.sudoku_tests, "verified": settings.sudoku_verified},
        "seconds": seconds,
        "versions": _versions(("energy-based-transformers", "torch", "lightning", "transformers")),
    }


Quality = dict[str, dict[str, float]]


def _by_givens(curves: dict[int, dict[str, Any]]) -> dict[str, Quality]:
    return {str(givens): _quality(curves[givens]) for givens in jobs.GIVENS}


def _once(boards: dict[str, Quality]) -> Quality:
    """Return the quality of a model without steps."""
    return {givens: by_steps["1"] for givens, by_steps in boards.items()}


def _nats(curve: dict[str, Any]) -> dict[str, float]:
    return {str(point["steps"]): point["nats"] for point in curve["points"]}


def _quality(curve: dict[str, Any]) -> Quality:
    return {str(point["steps"]): {"exact": point["exact"], "cell": point["cell"]} for point in curve["points"]}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
