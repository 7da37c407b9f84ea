"""The Sudoku problem as seen by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.cells import CellsPoint
from ebt.evaluation.results import Curve, Progress
from ebt.problems.registry import HeldOut, Problem, Request, late, run_data, same, tensors
from ebt.problems.sudoku.boards import read_csv
from ebt.problems.sudoku.generator import SudokuSet, check_boards, generate
from ebt.problems.sudoku.metrics import MEASURE, sudoku_curve
from ebt.problems.sudoku.models import EBTForSudoku, SudokuTransformer


class Sudoku(Problem):
    """Completion of boards with empty cells."""

    name = "sudoku"
    models = (EBTForSudoku, SudokuTransformer)
    task = late("ebt.problems.sudoku.task:SudokuTask")
    data = late("ebt.problems.sudoku.data:SudokuDataModule")
    measure = MEASURE
    columns = ("solved %", "cells %", "taken")
    options = ("candidates", "rule", "tolerance", "givens")
    rules = (*Problem.rules, "decided", "visited", "majority")

    def cells(self, point: CellsPoint) -> list[str]:
        return point.shown()

    def told(self, point: CellsPoint) -> str:
        return f"{100 * point.exact:.1f} % of boards solved"

    def held_out(self, request: Request) -> HeldOut:
        """Up to ``limit`` boards (200 by default): of a file, of the run's validation set, of its test set with that many
        givens (the fewest by default), or new ones."""
        same("the size of boards", [model.config.board for model in request.models.values()])
        size, limit, givens, note = request.model.config.board, request.limit or 200, request.givens, ""
        given = {"--data": request.data, "--givens": givens, f"--split {request.split}": request.split != "test" or None}
        named = [option for option, value in given.items() if value is not None]
        if len(named) > 1:
            raise InputError(f"{' and '.join(named[:2])} both choose the boards: give one of them.")
        if request.data is not None:
            name, boards = Path(request.data).name, read_csv(request.data, size, owner="this model solves")
        elif (settings := run_data(request.checkpoint, self.data)) is not None:
            name, boards, note = _boards_of_run(settings, size, givens, request.split, limit, request.seed)
        elif givens is not None:
            name, boards = f"new puzzles with {givens} givens", generate(size, givens, limit, request.seed)
            note = "The model's training set is unknown: it may contain solution grids of these new puzzles."
        else:
            raise InputError(
                f"{request.checkpoint} is not part of a run folder, so its boards are unknown: give a CSV file with --data, or "
                "generate new puzzles with --givens N."
            )
        pair = torch.from_numpy(boards.puzzles[:limit]), torch.from_numpy(boards.solutions[:limit])
        return HeldOut(name, len(pair[0]), pair, note)

    def given(self, model: Any, data: Any) -> tuple[Tensor, Tensor]:
        """Puzzles and solutions (n, C)."""
        puzzles, solutions = tensors(data, "puzzles", "solutions")
        found = check_boards(solutions.cpu(), model.config.board, "solutions")
        if not found.all():
            raise InputError("solutions have empty cells: give complete boards")
        return model.prepared(puzzles).cpu(), torch.from_numpy(found).reshape(-1, model.config.board**2)

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[CellsPoint]:
        options.setdefault("batch_size", 64)
        puzzles, solutions = held_out.data
        return sudoku_curve(model, puzzles, solutions, steps, candidates, progress=bar, **options)


PROBLEM = Sudoku()


def _boards_of_run(
    settings: dict[str, Any], size: int, givens: int | None, split: str, limit: int, seed: int
) -> tuple[str, SudokuSet, str]:
    """Return the name, the boards and a note about them."""
    data = PROBLEM.data(**{**settings, "num_workers": 0})
    data.prepare()
    if split != "test":
        return f"{split} set", data.sets[split], ""
    fewest = {name: int((data.sets[name].puzzles > 0).sum(1).min()) for name in data.test_names}
    if givens is None and not fewest:
        raise InputError("The run has no test set: give a CSV file with --data, or generate new puzzles with --givens N.")
    chosen = f"givens_{givens}" if givens is not None else min(fewest, key=lambda name: fewest[name])
    if chosen in fewest:
        return f"test set {chosen}", data.sets[chosen], ""
    new = generate(size, givens or 0, limit, seed, exclude=data.sets["train"].solutions)
    return f"new puzzles with {givens} givens", new, "Their solution grids do not occur in the training set."
