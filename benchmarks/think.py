"""Compare a fixed number of thinking steps with stopping converged predictions: quality and function evaluations.

    python benchmarks/think.py --models runs/think --json think.json

Two models are trained on embedded data and kept in ``--models``: text (bytes of the Python documentation) and 6x6 Sudoku. A
prediction (a token, a board) that changes by less than the tolerance in one step stops, at most after 32 steps, and is not
evaluated again. Each tolerance is compared with the smallest fixed number of steps with a loss within 0.005 nats of its own, by
the ratio of their evaluations. Two tolerances chosen on validation data are measured on test data: the one with the smallest
ratio, and ("the best loss") the one with the fewest evaluations and a loss within 0.005 nats of the best fixed number of steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import race
import torch
from rich.console import Console
from torch import Tensor

from ebt.cli.terminal import plain_table, print_table
from ebt.lab.demo.jobs import GIVENS, Settings, boards_of, text_of, train
from ebt.problems.folder import load_folder
from ebt.problems.language.task import LanguageNetwork, LanguageTask
from ebt.thinking import Recipe, Thought
from ebt.training.optimisation import Optimisation

CAP, BAND = 32, 0.005
LIMITS = {"text": 0.8, "sudoku": 0.5}
SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
TOLERANCES = {"text": (0.5, 0.4, 0.3, 0.2, 0.1, 0.03, 0.01), "sudoku": (0.3, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02, 0.01, 0.003)}
TEXT = Recipe(min_steps=2, max_steps=4, gradients="truncated", loss="last", step_size_spread=2.0)
"""The paper's S2 recipe without noise and replay: one step alone is never trained, so thinking longer matters."""


@dataclass(frozen=True)
class Batch:
    """Contexts to think about together."""

    given: Tensor
    target: Tensor
    scored: Tensor


@dataclass(frozen=True)
class Point:
    """Quality (mean over scored tokens or cells) and evaluations (mean over predictions) of one way to think."""

    steps: int
    tolerance: float | None
    loss: float
    right: float
    """Fraction of correct tokens, or of solved boards."""
    forward: float
    backward: float

    @property
    def evaluations(self) -> float:
        return self.forward + self.backward


def settings_of(quick: bool) -> Settings:
    return Settings.quick(0) if quick else Settings()


def trained(task: str, folder: Path, quick: bool) -> Any:
    """Load the model of a task from its folder, or train it."""
    settings = settings_of(quick)
    if not (folder / "config.json").exists():
        if task == "text":
            optimisation = Optimisation(lr=4e-3, betas=(0.9, 0.98), min_lr_ratio=0.05)
            made: Any = LanguageTask(LanguageNetwork("nano", dim=96), TEXT, optimisation=optimisation, sample_every=0, seed=0)
            work, updates = text_of(settings), settings.text_updates
        else:
            made, work, updates = settings.sudoku_task("ebt"), boards_of(settings), settings.sudoku_updates
        train(made, work, updates, folder, lambda done, total, note: _say(task, done, total, note))
    return load_folder(folder)


def _say(task: str, done: int, total: int, note: str) -> None:
    if done % 50 == 0 or done == total:
        print(f"training {task}: {done} of {total}, {note}", file=sys.stderr, flush=True)


def batches_of(task: str, split: str, count: int, quick: bool) -> list[Batch]:
    """``count`` contexts, or boards per number of givens: the first of each test set for test, the last for validation."""
    settings = settings_of(quick)
    if task == "text":
        text, found = text_of(settings), []
        for batch in text.val_dataloader() if split == "validation" else text.test_dataloader():
            left = count - sum(len(one.given) for one in found)
            if left <= 0:
                break
            target = batch["targets"][:left]
            found.append(Batch(batch["input_ids"][:left], target, target >= 0))
        return found
    data, found = boards_of(settings), []
    for givens in GIVENS:
        boards = data.sets[f"givens_{givens}"]
        rows = slice(0, count) if split == "test" else slice(len(boards.puzzles) - count, None)
        puzzles, solutions = (torch.as_tensor(part[rows]).long() for part in (boards.puzzles, boards.solutions))
        found += [Batch(p, s - 1, p == 0) for p, s in zip(puzzles.split(64), solutions.split(64), strict=True)]
    return found


def thoughts(model: Any, batches: Sequence[Batch], tolerance: float | None) -> Iterator[tuple[Batch, Thought]]:
    """Every batch with the record of its descent; the same starts whatever the tolerance."""
    for batch in batches:
        yield batch, model.think(batch.given, steps=CAP, candidates=1, tolerance=tolerance, final_energy=False)


@torch.no_grad()
def measure(model: Any, batches: Sequence[Batch], tolerance: float | None = None) -> list[Point]:
    """One point with a tolerance; without one, a point for each number of steps."""
    geometry, cells = model.geometry(), sum(int(batch.scored.sum()) for batch in batches)
    sums, predictions = torch.zeros(CAP if tolerance is None else 1, 4, dtype=torch.float64), 0
    for batch, thought in thoughts(model, batches, tolerance):
        count = thought.steps.numel()
        predictions += count
        for i, state in enumerate(thought.states if tolerance is None else (thought.state,)):
            loss = (geometry.loss(state, batch.target) * batch.scored).double().sum()
            right = (geometry.decide(state) == batch.target) | ~batch.scored
            solved = right.all(1) if geometry.prediction_dims == 1 else right
            share = 1.0 if tolerance is not None else (i + 1) / CAP
            passes = (thought.evaluations.forward * share * count, thought.evaluations.backward * share * count)
            sums[i] += torch.tensor((loss, solved.sum(), *passes), dtype=torch.float64)
    points = (sums / torch.tensor((cells, predictions, predictions, predictions))).tolist()
    return [Point(i + 1 if tolerance is None else CAP, tolerance, *point) for i, point in enumerate(points)]


def cheapest(points: Sequence[Point], loss: float) -> Point | None:
    """The point with the fewest evaluations and at most the given loss."""
    return min((point for point in points if point.loss <= loss), key=lambda point: point.evaluations, default=None)


def compare(fixed: dict[str, list[Point]], stopped: dict[str, list[Point]]) -> dict[str, Any]:
    """Choose tolerances on validation data and compare them with fixed numbers of steps on test data."""
    known = fixed["validation"]
    chosen = min(stopped["validation"], key=lambda point: point.evaluations / rival(known, point).evaluations)
    reference = min(point.loss for point in known)
    best = cheapest(stopped["validation"], reference + BAND) or min(stopped["validation"], key=lambda point: point.loss)
    return {**measured(fixed["test"], stopped["test"], chosen), "best loss": measured(fixed["test"], stopped["test"], best)}


def rival(fixed: Sequence[Point], point: Point) -> Point:
    """The smallest fixed number of steps with a loss equal to that of a point, within the band."""
    return cheapest(fixed, point.loss + BAND) or fixed[-1]


def measured(fixed: Sequence[Point], stopped: Sequence[Point], chosen: Point) -> dict[str, Any]:
    """Compare a tolerance on test data with fixed steps of equal loss, and with fixed steps of as many right."""
    own = next(point for point in stopped if point.tolerance == chosen.tolerance)
    other = rival(fixed, own)
    right = next((point for point in fixed if point.right >= own.right - BAND), fixed[-1])
    return {
        "tolerance": own.tolerance,
        "stopped": asdict(own),
        "fixed": asdict(other),
        "ratio": own.evaluations / other.evaluations,
        "fixed, as many right": asdict(right),
        "ratio, as many right": own.evaluations / right.evaluations,
    }


def show(task: str, fixed: Sequence[Point], stopped: Sequence[Point], found: dict[str, Any], console: Console) -> None:
    table = plain_table()
    for column in (
        "steps",
        "tolerance",
        "loss (nats)",
        "tokens right %" if task == "text" else "boards solved %",
        "fwd",
        "bwd",
    ):
        table.add_column(column, justify="right")
    for point in [*(point for point in fixed if point.steps in SHOWN), *stopped]:
        tolerance = "" if point.tolerance is None else f"{point.tolerance:g}"
        numbers = (f"{point.loss:.4f}", f"{100 * point.right:.1f}", f"{point.forward:.2f}", f"{point.backward:.2f}")
        style = "bold green" if point.tolerance is not None and point.tolerance == found["tolerance"] else None
        table.add_row(str(point.steps), tolerance, *numbers, style=style)
    print_table(console, f"{task}, test data", table, "forward and inner backward passes per prediction")
    right, exact = found["fixed, as many right"]["steps"], found["best loss"]
    console.print(
        f"{task}: {found['ratio']:.2f} of the evaluations of {found['fixed']['steps']} fixed steps, the fewest of that loss "
        f"(limit {LIMITS[task]}); {found['ratio, as many right']:.2f} of {right}, the fewest with as many right; "
        f"for the best loss, tolerance {exact['tolerance']:g}: {exact['ratio']:.2f}",
        highlight=False,
        soft_wrap=True,
    )


def run(task: str, args: argparse.Namespace, console: Console) -> dict[str, Any]:
    model = trained(task, Path(args.models) / (f"{task}-quick" if args.quick else task), args.quick)
    count = {"text": args.contexts, "sudoku": args.boards}[task]
    fixed, stopped = dict[str, list[Point]](), dict[str, list[Point]]()
    tolerances = TOLERANCES[task][: 3 if args.quick else None]
    for split in ("validation", "test"):
        batches = batches_of(task, split, 2 if args.quick else count, args.quick)
        fixed[split] = measure(model, batches)
        stopped[split] = [point for tolerance in tolerances for point in measure(model, batches, tolerance)]
    found = compare(fixed, stopped)
    show(task, fixed["test"], stopped["test"], found, console)
    curves = {"fixed": _plain(fixed), "stopped": _plain(stopped)}
    return {"task": task, **found, "curves": curves}


def _plain(splits: dict[str, list[Point]]) -> dict[str, list[dict[str, Any]]]:
    return {split: [asdict(point) for point in points] for split, points in splits.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="runs/think", metavar="DIR", help="folder of trained models (default: runs/think)")
    parser.add_argument("--only", choices=("text", "sudoku"), help="run only one of the tasks")
    parser.add_argument("--contexts", type=int, default=200, metavar="N", help="contexts of 64 bytes per split (default: 200)")
    parser.add_argument("--boards", type=int, default=200, metavar="N", help="boards per number of givens (default: 200)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (default: 1)")
    parser.add_argument("--quick", action="store_true", help="seconds, with models that have learned nothing")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers into this file")
    args, console = parser.parse_args(argv), Console()
    torch.set_num_threads(args.threads)
    results = [run(task, args, console) for task in (("text", "sudoku") if args.only is None else (args.only,))]
    race.write(args.json, args, results, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
