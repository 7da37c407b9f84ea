"""The problem of mazes as seen by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ebt.errors import InputError
from ebt.evaluation.cells import CellsPoint
from ebt.evaluation.results import Curve, Progress
from ebt.problems.mazes.grids import MazeSet, read_mazes
from ebt.problems.mazes.metrics import MEASURE, maze_curve, watch_maze
from ebt.problems.mazes.models import EBTForMazes, MazeTransformer
from ebt.problems.registry import HeldOut, Problem, Request, late
from ebt.problems.runs import run_data


class MazeProblem(Problem):
    """The shortest path through a maze."""

    name = "mazes"
    models = (EBTForMazes, MazeTransformer)
    task = late("ebt.problems.mazes.task:MazeTask")
    data = late("ebt.problems.mazes.data:MazeDataModule")
    measure = MEASURE
    columns = ("exact %", "squares %", "taken")
    options = ("candidates", "rule", "tolerance")
    rules = (*Problem.rules, "majority")

    def cells(self, point: CellsPoint) -> list[str]:
        return point.shown()

    def told(self, point: CellsPoint) -> str:
        return f"{100 * point.exact:.1f} % of paths exact"

    def held_out(self, request: Request) -> HeldOut:
        """Up to ``limit`` mazes (200 by default): of a file, of the run's validation set, or of its test set with the largest
        mazes."""
        if request.data is not None and request.split != "test":
            raise InputError(f"--data and --split {request.split} both choose the mazes: give one of them.")
        if request.data is not None:
            name, mazes = Path(request.data).name, read_mazes(request.data)
        elif (settings := run_data(request.checkpoint, self.data)) is not None:
            name, mazes = _mazes_of_run(settings, request.split)
        else:
            raise InputError(
                f"{request.checkpoint} is not part of a run folder, so its mazes are unknown: give a text file with --data."
            )
        pair = tuple(torch.from_numpy(part[: request.limit or 200]).flatten(1) for part in mazes)
        return HeldOut(name, len(pair[0]), pair)

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[CellsPoint]:
        from ebt.problems.mazes.data import rows_at_once

        mazes, paths = held_out.data
        options.setdefault("batch_size", rows_at_once(64, int(mazes.shape[1] ** 0.5)))
        return maze_curve(model, mazes, paths, steps, candidates, progress=bar, **options)

    def pictures(self, folder: Path, request: Request, held_out: HeldOut, steps: int) -> list[Path]:
        """Draw the first maze while the model of ``checkpoint`` thinks."""
        from ebt.problems.mazes.pictures import maze_strip

        mazes, paths = held_out.data
        thinking = watch_maze(request.model, mazes[0], steps)
        maze_strip(asdict(thinking), folder / "maze.png", solution=paths[0].numpy(), title=held_out.name)
        return [folder / "maze.png"]


PROBLEM = MazeProblem()


def _mazes_of_run(settings: dict[str, Any], split: str) -> tuple[str, MazeSet]:
    """Return the name and the mazes."""
    data = PROBLEM.data(**{**settings, "num_workers": 0})
    data.prepare()
    if split != "test":
        return f"{split} set", data.sets[split]
    if not data.test_names:
        raise InputError("The run has no test set: give a text file with --data.")
    largest = max(data.test_names, key=lambda name: data.sets[name].mazes.shape[1])
    return f"test set {largest}", data.sets[largest]
