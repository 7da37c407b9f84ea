"""``ebt demo``: Energy-Based Transformers against their feed-forward twins on real data, in minutes, with a report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ebt.cli.terminal import Options, count_from, say_written
from ebt.errors import InputError
from ebt.lab.demo import jobs, report
from ebt.lab.studies.pool import Board, bars, pool, teller

SUDOKU = {"sudoku-ebt": "ebt", "sudoku-feed-forward": "feed_forward", "sudoku-looped": "looped_hidden"}
TEXT = {"text-ebt": "ebt", "text-transformer-pp": "transformer_pp"}
ORDER = ("sudoku-ebt", "text-ebt", "sudoku-looped", "text-transformer-pp", "sudoku-feed-forward")
"""Longest first, so that the processes end together."""


def _options() -> Options:
    options = Options(
        "demo",
        "Train an Energy-Based Transformer and its rivals on 6x6 Sudokus and on the documentation of Python, let them think,\n"
        "and write what came of it: report.html, pictures, results.json and the models. A quarter of an hour on two cores.",
        "ebt demo --out runs/demo",
    )
    options.add_argument("--out", metavar="DIR", default="runs/demo", help="folder of the results (default: runs/demo)")
    options.add_argument("--quick", action="store_true", help="seconds instead of minutes: everything runs, nothing is learned")
    options.add_argument(
        "--processes", type=count_from(1), metavar="N", help="trainings at once (default: one per core, at most 5)"
    )
    options.seed("weights, puzzles, batches and starts")
    return options


def main(argv: list[str]) -> int:
    """Run the demo."""
    args = _options().parse_args(argv)
    console, out = Console(), Path(args.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: name a folder.")
    (out / "models").mkdir(parents=True, exist_ok=True)
    settings = jobs.Settings.quick(args.seed) if args.quick else jobs.Settings(args.seed)
    processes = args.processes or min(len(ORDER), os.cpu_count() or 1)
    console.print(f"Training {len(ORDER)} models, {processes} at a time; results go to {out}/.\n")
    began = time.monotonic()
    made = _run(settings, out / "models", processes, console)
    results = collect(settings, made, time.monotonic() - began)
    torch.set_num_threads(1)  # single boards: more threads only wait for each other, on a busy machine for minutes
    report.write(results, made, out, settings.seed)
    report.show(results, console)
    say_written(console, [out / "report.html", out / "results.json"])
    console.print(f"Next: ebt solve --checkpoint {out}/models/sudoku-ebt --givens 10", highlight=False)
    return 0


def _run(settings: jobs.Settings, folder: Path, processes: int, console: Console) -> dict[str, Any]:
    """All jobs, as many at once as there are processes; the verification of boards begins when their model is there."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    made: dict[str, Any] = {}
    with pool(processes, threads) as (workers, messages), bars(console) as progress:
        board = Board(progress, messages)
        running: dict[Future[Any], str] = {
            workers.submit(_job, messages, name, "train", settings, folder / name): name for name in ORDER
        }
        while running:
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            board.read()
            board.print_now_and_then()
            for future in done:
                name = running.pop(future)
                made[name] = future.result()
                if name == "sudoku-ebt":
                    for candidates, givens in ((many, givens) for many in (jobs.CANDIDATES, 1) for givens in jobs.GIVENS):
                        label = _solving(candidates, givens)
                        job = (messages, label, "solve", settings, folder / name, givens, candidates)
                        running[workers.submit(_job, *job)] = label
        board.read()
    made["sudoku-ebt"]["curves"] = {givens: made[_solving(1, givens)] for givens in jobs.GIVENS}
    return made


def _solving(candidates: int, givens: int) -> str:
    return f"{candidates} candidate{'s' if candidates > 1 else ''}, {givens} givens"


def _job(
    messages: Any, name: str, what: str, settings: jobs.Settings, folder: Path, givens: int = 0, candidates: int = 1
) -> dict[str, Any]:
    """Runs in a process of its own."""
    tell = teller(messages, name)
    tell(0, 1, "preparing data")
    if what == "solve":
        return jobs.solve(settings, folder, givens, candidates, tell)
    if name in SUDOKU:
        return jobs.train_sudoku(settings, folder, SUDOKU[name], tell)
    return jobs.train_text(settings, folder, TEXT[name], tell)


def collect(settings: jobs.Settings, made: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The numbers of ``results.json``; keys are strings, fractions lie between 0 and 1."""
    boards = made["sudoku-ebt"]["curves"]
    verified = {givens: made[_solving(jobs.CANDIDATES, givens)] for givens in jobs.GIVENS}
    text = made["text-ebt"]["curves"]
    nats = {split: {str(point["steps"]): point["nats"] for point in curve["points"]} for split, curve in text.items()}
    best = min(nats["validation"], key=nats["validation"].__getitem__)
    return {
        "sudoku": {str(givens): _quality(boards[givens]) for givens in jobs.GIVENS},
        "sudoku_verified": {str(givens): _quality(verified[givens]) for givens in jobs.GIVENS},
        "sudoku_feedforward": {str(g): _quality(made["sudoku-feed-forward"]["curves"][g])["1"] for g in jobs.GIVENS},
        "sudoku_looped": {str(g): _quality(made["sudoku-looped"]["curves"][g]) for g in jobs.GIVENS},
        "text": {
            "ebt": nats["test"],
            "ebt_validation": nats["validation"],
            "best_steps": int(best),
            "lowest_trained_steps": settings.text_task("ebt").recipe.min_steps,
            "transformer_pp": made["text-transformer-pp"]["curves"]["test"]["points"][0]["nats"],
            "corpus": made["text-ebt"]["data"],
        },
        "seeds": [settings.seed],
        "parameters": {name: made[name]["parameters"] for name in ORDER},
        "train_seconds": {name: made[name]["train_seconds"] for name in ORDER},
        "updates": {"sudoku": settings.sudoku_updates, "text": settings.text_updates},
        "candidates": jobs.CANDIDATES,
        "boards": {"one_candidate": settings.sudoku_tests, "verified": settings.sudoku_verified},
        "seconds": seconds,
        "versions": _versions(("energy-based-transformers", "torch", "lightning", "transformers")),
    }


def _quality(curve: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {str(point["steps"]): {"exact": point["exact"], "cell": point["cell"]} for point in curve["points"]}


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
