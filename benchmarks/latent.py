"""Boards and mazes after equal training time: EBTs with and without a latent vector against loops and the feed-forward twin.

    python benchmarks/latent.py --out runs/latent --json latent.json

Boards are 6x6, trained with 14 to 20 givens and tested with 9 and 10. Large boards, 9x9, are drawn from a ``--collection`` of
puzzles with 17 givens, trained with 17 to 34 givens and tested with 17, 20, 24 and 28. Mazes have 9 and 11 squares on a side
in training, and 15 and 21 in the tests. Each model trains for the same processor time on one thread, with weights averaged
over the second half. ``--burn-in N`` lets EBTs with a latent vector and loops take up to N steps without gradients before
those that are trained, in the last 40 % of the time. A finished run is one JSON file in ``--out``; an interrupted benchmark
continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks import each other
from race import write

from ebt.cli.parser import Options, count_from, number_in
from ebt.cli.terminal import numbers, out_folder, plain_table, print_table
from ebt.lab.studies import sudoku
from ebt.lab.studies.command import gather
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json, Run
from ebt.lab.studies.text import identity
from ebt.lab.studies.trained import optimisation_of
from ebt.problems.mazes.data import MazeDataModule, rows_at_once
from ebt.problems.mazes.metrics import maze_curve
from ebt.problems.mazes.task import MazeNetwork, MazeTask
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.metrics import sudoku_curve
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe
from ebt.training.loop import train_for
from ebt.training.optimisation import Optimisation

Settings = dict[str, Any]
PARTS: dict[str, tuple[Any, Any, Any]] = {
    "boards": (SudokuTask, SudokuNetwork, SudokuDataModule),
    "large boards": (SudokuTask, SudokuNetwork, SudokuDataModule),
    "mazes": (MazeTask, MazeNetwork, MazeDataModule),
}
KINDS: dict[str, Settings] = {
    "latent": {"kind": "ebt", "latent": True, **sudoku.HEAD},
    "ebt": {"kind": "ebt", **sudoku.HEAD},
    "looped_hidden": {"kind": "looped_hidden"},
    "looped_prediction": {"kind": "looped_prediction"},
    "feed_forward": {"kind": "feed_forward"},
}
BOARDS: Settings = {"size": "nano", "layers": 4, "rules": True}
NETWORKS: dict[str, Settings] = {"boards": BOARDS, "large boards": BOARDS, "mazes": {"size": "nano", "layers": 2}}
RECIPES = {"boards": sudoku.LOOPS, "large boards": sudoku.LOOPS, "mazes": Recipe(2, 8)}
"""Of all but the EBT without a latent vector on boards, which has that of the Sudoku study, and the twin, which has none."""
OPTIMISATION = {"boards": sudoku.OPTIMISATION, "large boards": sudoku.OPTIMISATION, "mazes": Optimisation(3e-3)}
MINUTES = {"boards": 4.0, "large boards": 30.0, "mazes": 3.0}
TESTS: dict[str, tuple[int, ...]] = {"boards": (9, 10), "large boards": (17, 20, 24, 28), "mazes": (15, 21)}
"""Numbers of givens, and squares on a side."""
STEPS = {"boards": (4, 8, 16, 32, 64), "large boards": (4, 8, 16, 32, 64), "mazes": (8, 16, 32)}
BURN_IN_START = 0.6
"""Share of the time without a burn-in, if there is one."""
NOISE = 1.0
"""Langevin noise of all candidates but the first."""
VISITED_NOISE = 0.5
"""The same where all states on the way are judged (rule visited)."""


def data_of(problem: str, quick: bool) -> Settings:
    """Settings of the data module."""
    if problem != "mazes":
        large = problem == "large boards"
        train, test, givens = (50_000, 100, (17, 34)) if large else (4000, 150, (14, 20))
        counts = {"train_count": train, "train_givens": givens, "test_count": test, "test_givens": TESTS[problem]}
        few = {
            "train_count": 8,
            "train_givens": (28, 34) if large else givens,
            "test_count": 2,
            "test_givens": TESTS[problem][-1:],
        }
        return {
            "size": 9 if large else 6,
            "validation_count": 1 if quick else 32,
            "batch_size": 32,
            "permute_lines": large,
            **(few if quick else counts),
        }
    sizes = {"train_sizes": (7,), "test_sizes": (9,)} if quick else {"train_sizes": (9, 11), "test_sizes": TESTS[problem]}
    count, held = (8, 2) if quick else (8000, 50)
    return {**sizes, "train_count": count, "validation_count": held, "test_count": held, "batch_size": 16}


def run_of(problem: str, kind: str, seed: int, args: argparse.Namespace, folder: Path) -> Run:
    """A training run with its measurements."""
    boards = problem != "mazes"
    recipe = Recipe() if kind == "feed_forward" else sudoku.RECIPE if boards and kind == "ebt" else RECIPES[problem]
    if args.burn_in and kind not in ("ebt", "feed_forward"):
        recipe = replace(recipe, burn_in=args.burn_in, burn_in_start=BURN_IN_START)
    places, source = {}, {}
    if problem == "large boards":
        places, source = {"collection": args.collection}, {"collection": identity(args.collection)}
    minutes = args.minutes or (0.01 if args.quick else MINUTES[problem])
    settings: Settings = {
        "problem": problem,
        "network": {**NETWORKS[problem], **KINDS[kind], **({"layers": 1, "dim": 16, "heads": 2} if args.quick else {})},
        "recipe": asdict(recipe),
        "optimisation": asdict(OPTIMISATION[problem]),
        "data": data_of(problem, args.quick) | source,
        "steps": (1, 2) if args.quick else STEPS[problem],
        "candidates": 2 if args.quick else 8,
        "noises": (NOISE, VISITED_NOISE),
        "minutes": minutes,
        "seed": seed,
    }
    return Run(f"{problem} {kind} {seed}", work, settings, folder, places, cost=minutes)


def work(settings: Json, places: Json, report: Report) -> Settings:
    """Train a model and measure it on all test sets, and if it thinks about boards, with several candidates."""
    make_task, make_network, make_data = PARTS[settings["problem"]]
    data = make_data(seed=0, **settings["data"] | places)
    data.prepare()
    data.seed = settings["seed"]  # all seeds share the puzzles and differ in their order
    network, recipe = make_network(**settings["network"]), Recipe(**settings["recipe"])
    task = make_task(network, recipe, optimisation=optimisation_of(settings), seed=settings["seed"])
    found: Settings = {"training": train_for(task, data, settings["minutes"], report), "exact": {}, "best": {}, "visited": {}}
    model, kind = task.model.eval(), settings["network"]["kind"]
    steps = [1] if kind == "feed_forward" else settings["steps"]
    for name in data.test_names:
        contexts, answers = (torch.as_tensor(part) for part in data.sets[name])
        if settings["problem"] == "mazes":
            curve = maze_curve(model, contexts, answers, steps, batch_size=rows_at_once(50, contexts.shape[1]))
        else:
            curve = sudoku_curve(model, contexts, answers, steps)
            if kind == "ebt":
                many, (noise, visited_noise) = settings["candidates"], settings["noises"]
                best = sudoku_curve(model, contexts, answers, [min(32, max(steps))], [many], noise=noise)
                found["best"][name] = best.points[0].exact
                options: Settings = {"noise": visited_noise, "rule": "visited"}
                visited = sudoku_curve(model, contexts, answers, [max(steps)], [1, many], **options)
                found["visited"][name] = [point.exact for point in visited.points]
        found["exact"][name] = {str(point.steps): point.exact for point in curve.points}
    return found


def show(results: Sequence[Settings], console: Console) -> None:
    """Print a row for each model and test set."""
    steps = sorted({int(step) for one in results for step in one["exact"]})
    columns = numbers("updates", *(f"at {step}" for step in steps), "best of 8", "visited, 1", "visited, 8")
    table = plain_table("test set", "model", *columns)
    for one in results:
        cells = [f"{100 * fmean(one['exact'][str(step)]):.1f}" if str(step) in one["exact"] else "-" for step in steps]
        best = f"{100 * fmean(one['best']):.1f}" if one["best"] else "-"
        visited = [f"{100 * fmean(each):.1f}" for each in zip(*one["visited"], strict=True)] or ["-", "-"]
        table.add_row(one["set"], one["kind"], f"{fmean(one['updates']):.0f}", *cells, best, *visited)
    note = (
        "Means over the seeds. Steps are iterations for loops; best of 8 after 32 steps; rule visited with 1 and 8 after all."
    )
    print_table(console, "solved without a mistake, %", table, note)


def _options() -> Options:
    options = Options("", (__doc__ or "").splitlines()[0], "python benchmarks/latent.py --only mazes --json mazes.json")
    options.prog = "python benchmarks/latent.py"
    add = options.add_argument
    add("--only", choices=sorted(PARTS), metavar="PROBLEM", help="boards, 'large boards' or mazes (default: all)")
    add("--collection", metavar="FILE", help="9x9 puzzles with 17 givens, for large boards (default: none, without them)")
    add("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND", help=f"some of: {', '.join(KINDS)}")
    add("--seeds", type=count_from(1), default=3, metavar="N", help="training runs per model (default: 3)")
    add(
        "--minutes",
        type=number_in(0),
        metavar="M",
        help="training time of each (default: 4 for boards, 30 for large ones, 3 for mazes)",
    )
    add(
        "--burn-in",
        type=count_from(0),
        default=0,
        metavar="N",
        help="most steps without gradients before those that are trained",
    )
    add("--jobs", type=count_from(1), default=1, metavar="N", help="runs at the same time, with one thread each (default: 1)")
    add("--out", default="runs/latent", metavar="DIR", help="finished runs (default: runs/latent)")
    add("--quick", action="store_true", help="tiny models that learn nothing")
    add("--json", metavar="FILE", help="also write the numbers into this file")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Train the missing runs, and print the table."""
    options, console = _options(), Console()
    args = options.parse_args(sys.argv[1:] if argv is None else list(argv))
    if args.only == "large boards" and args.collection is None:
        options.error("large boards need --collection FILE, puzzles with 17 givens")
    folder, summaries = out_folder(args.out), list[Settings]()
    assert folder is not None
    runs = {
        (problem, kind): [run_of(problem, kind, seed, args, folder) for seed in range(args.seeds)]
        for problem in ([args.only] if args.only else PARTS)
        if problem != "large boards" or args.collection
        for kind in args.kinds
    }
    results = gather([[run for each in runs.values() for run in each]], args.jobs, console)
    for (_, kind), each in runs.items():
        found = [results[run.key].values for run in each]
        for name in found[0]["exact"]:
            exact = {step: [one["exact"][name][step] for one in found] for step in found[0]["exact"][name]}
            best, visited = ([one[rule][name] for one in found if name in one[rule]] for rule in ("best", "visited"))
            updates = [one["training"]["updates"] for one in found]
            measured = {"exact": exact, "best": best, "visited": visited}
            summaries.append({"set": name, "kind": kind, "updates": updates, **measured})
    show(summaries, console)
    write(args.json, args, summaries, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
