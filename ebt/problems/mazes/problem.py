"""The problem of mazes as seen by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.cells import CellsPoint
from ebt.evaluation.results import Curve, Progress
from ebt.problems.mazes.generator import generate
from ebt.problems.mazes.grids import MazeSet, read_mazes
from ebt.problems.mazes.metrics import MEASURE, maze_curve, rows_at_once, watch_maze
from ebt.problems.mazes.models import EBTForMazes, MazeTransformer
from ebt.problems.registry import HeldOut, Problem, Request, late, run_data, tensors


class MazeProblem(Problem):
    """The shortest path through a maze."""

    name = "mazes"
    models = (EBTForMazes, MazeTransformer)
    task = late("ebt.problems.mazes.task:MazeTask")
    data = late("ebt.problems.mazes.data:MazeDataModule")
    measure = MEASURE
    columns = ("exact %", "squares %", "taken")
    options = ("candidates", "rule", "tolerance", "size")
    rules = (*Problem.rules, "decided", "visited", "majority")

    def cells(self, point: CellsPoint) -> list[str]:
        return point.shown()

    def told(self, point: CellsPoint) -> str:
        return f"{100 * point.exact:.1f} % of paths exact"

    def held_out(self, request: Request) -> HeldOut:
        """Up to ``limit`` mazes (200 by default): of a file, of the run's validation set, of its test set of that size (the
        largest by default), or new ones."""
        limit, note = request.limit or 200, ""
        given = {"--data": request.data, "--size": request.size, f"--split {request.split}": request.split != "test" or None}
        named = [option for option, value in given.items() if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named[:2])} both choose the mazes: give one of them.")
        if request.data is not None:
            name, mazes = Path(request.data).name, read_mazes(request.data)
        elif (settings := run_data(request.checkpoint, self.data)) is not None:
            name, mazes, note = _mazes_of_run(settings, request, limit)
        elif request.size is not None:
            name, mazes = _new(request.size), generate(request.size, limit, (request.seed, NEW, request.size))
            note = "The model's training set is unknown: it may contain these mazes."
        else:
            raise InputError(
                f"{request.checkpoint} is not part of a run folder, so its mazes are unknown: give a text file with --data, or "
                "draw new ones with --size N."
            )
        pair = tuple(torch.from_numpy(part[:limit]).flatten(1) for part in mazes)
        return HeldOut(name, len(pair[0]), pair, note)

    def given(self, model: Any, data: Any) -> tuple[Tensor, Tensor]:
        """Mazes and paths (k, n, n) or (k, C)."""
        mazes, paths = (part.cpu() for part in tensors(data, "mazes", "paths"))
        if not torch.isin(paths, torch.tensor([0, 1])).all():
            raise InputError("paths have numbers other than 0 and 1: give 1 on the path")
        return model.prepared(mazes).cpu(), paths.reshape(len(paths), -1)

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[CellsPoint]:
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


NEW = 9
"""Tells the seeds of new mazes from those of a run's sets."""


def _new(size: int) -> str:
    return f"new mazes of {size} x {size} squares"


def _mazes_of_run(settings: dict[str, Any], request: Request, limit: int) -> tuple[str, MazeSet, str]:
    """Return the name, the mazes and a note about them."""
    data = PROBLEM.data(**{**settings, "num_workers": 0})
    data.prepare()
    if request.split != "test":
        return f"{request.split} set", data.sets[request.split], ""
    sizes = {name: data.sets[name].mazes.shape[1] for name in data.test_names}
    if request.size is None and not sizes:
        raise InputError("The run has no test set: give a text file with --data, or draw new mazes with --size N.")
    size = request.size or max(sizes.values())
    for name in sizes:
        if sizes[name] == size:
            return f"test set {name}", data.sets[name], ""
    new = generate(size, limit, (request.seed, NEW, size), data.taken)
    return _new(size), new, "They do not occur in the training set."
