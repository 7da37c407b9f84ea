"""Sudoku metrics: solved boards against thinking steps and candidates, and the thinking on one board.

Letters: n boards, M candidates, C cells, T steps. Puzzles have 0 at empty cells and digits 1 .. size elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.measure import Scorer, Tally, measure, thinks
from ebt.evaluation.results import Curve, Kind, Measure, Point, Progress
from ebt.evaluation.statistics import auroc
from ebt.models.exploration import Explored
from ebt.models.thinking import Thinking
from ebt.thinking import Simplex, Thought

MEASURE = Measure("exact", "boards solved (%)", "board", higher=True, percent=True)


@dataclass(frozen=True)
class SudokuPoint(Point):
    """Quality of completed boards."""

    exact: float
    """Fraction of boards with every cell right."""
    exact_error: float
    """Standard error of ``exact``."""
    cell: float
    """Fraction of empty cells that are right."""
    steps_taken: float
    """Mean number of steps taken by a candidate. Below ``steps`` if candidates stop early."""
    board_auroc: float | None
    """How well the energy of a board separates wrong boards from right ones."""
    cell_auroc: float | None
    """The same for the energies of single empty cells."""


Boards = tuple[Tensor, Tensor]
"""Puzzles and solutions (n, C)."""


def sudoku_curve(
    model: Any,
    puzzles: Tensor,
    solutions: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    thinking: Thinking | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    **options: Any,
) -> Curve[SudokuPoint]:
    """Measure completed boards for every number of steps and candidates, on the same boards.

    Args:
        model: An ``EBTForSudoku``, or a ``SudokuTransformer``, whose steps are iterations of one or several forward passes (a
            single point without a loop).
        puzzles: (n, C), 0 where a cell is empty.
        solutions: (n, C).
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure.
        thinking: See ``ebt.evaluation.measure.measure``.
        batch_size: Maximum number of boards times candidates at once. Limits the memory.
        progress: See ``ebt.evaluation.measure.measure``.
        **options: Fields of ``Thinking``.

    Raises:
        InputError: If a number is below 1, there are no boards, or puzzles and solutions differ in shape.
    """
    if puzzles.shape != solutions.shape or not len(puzzles):
        shapes = f"puzzles {tuple(puzzles.shape)}, solutions {tuple(solutions.shape)}"
        raise InputError(f"{shapes}: give one or more boards, each with a solution.")
    thinking_model = thinks(model)
    at_once = max(1, batch_size // (max(candidates, default=1) if thinking_model else 1))
    batches: Iterable[Any] = zip(puzzles.long().split(at_once), solutions.long().split(at_once), strict=True)
    kind: Kind = "looped" if not thinking_model and model.config.loop != "none" else "feed-forward"
    return measure(model, _Boards(), batches, steps, candidates, thinking, progress, total=len(puzzles), kind=kind, **options)


class _Boards(Scorer[SudokuPoint]):
    task = "sudoku"
    measure = MEASURE

    def context(self, batch: Boards, device: torch.device) -> Tensor:
        return batch[0].to(device)

    def rows(self, batch: Boards) -> int:
        return len(batch[0])

    units = rows

    def scored(self, batch: Boards) -> int:
        return int((batch[0] == 0).sum())

    def score(self, batch: Boards, won: Thought, found: Explored, steps: int, candidates: int) -> dict[str, Tensor]:
        energies = won.energies[-1].cpu()
        worth = _worth(batch, won.geometry.decide(won.state).cpu() + 1)
        return {**worth, "board_energy": energies.sum(1), "cell_energy": energies[batch[0] == 0]}

    def passes(self, model: Any, batch: Boards, steps: Sequence[int]) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        every = model(self.context(batch, model.device), iterations=max(steps))
        for step in steps if model.config.loop != "none" else [1]:
            yield step, float(step * model.passes), _worth(batch, every[step - 1].argmax(-1).cpu() + 1)

    def point(self, common: dict[str, Any], tally: Tally) -> SudokuPoint:
        wrong, known = tally["board"], "energy" in tally
        exact = 1 - tally.mean("board")
        return SudokuPoint(
            **common,
            exact=exact,
            exact_error=math.sqrt(exact * (1 - exact) / len(wrong)),
            cell=1 - tally.mean("cell") if len(tally["cell"]) else 0.0,
            steps_taken=tally.mean("taken"),
            board_auroc=auroc(tally["board_energy"], wrong) if known else None,
            cell_auroc=auroc(tally["cell_energy"], tally["cell"]) if known else None,
        )


def _worth(batch: Boards, digits: Tensor) -> dict[str, Tensor]:
    """Whether each board, and each empty cell, is wrong."""
    puzzle, solution = batch
    empty = puzzle == 0
    wrong = empty & (digits != solution)
    return {"board": wrong.any(1), "cell": wrong[empty]}


@dataclass(frozen=True)
class BoardThinking:
    """Thinking on one board: the winner among the candidates, at the start and after each step."""

    puzzle: list[int]
    """The C givens, 0 at empty cells."""
    boards: list[list[int]]
    """(T + 1, C) digits: the givens, and the most probable digits elsewhere."""
    confidence: list[list[float]]
    """(T + 1, C) probability of each digit, 1 for givens."""
    energies: list[float]
    """(T + 1) energy of the board."""
    winner: int
    """Index of the winning candidate."""
    candidate_energies: list[float]
    """Final energies of all M candidates."""
    steps: int
    """Number of steps taken by the winner."""
    forward: float
    backward: float


def watch_board(model: Any, puzzle: Tensor, thinking: Thinking | None = None, **options: Any) -> BoardThinking:
    """Think about one puzzle (C,) and record the board after every step. For the options see ``think``."""
    puzzle = puzzle.to(model.device).long().unsqueeze(0)
    return watched_board(puzzle, model.think(puzzle, thinking, **options))


def watched_board(puzzle: Tensor, won: Thought) -> BoardThinking:
    """Return the board (1, C) after every step of a ``Thought`` with recorded candidates."""
    made, geometry, given = int(won.steps), won.geometry, puzzle != 0
    assert isinstance(geometry, Simplex)
    assert won.candidates is not None
    with torch.no_grad():
        probabilities = torch.cat([geometry.logits(state).softmax(-1) for state in (won.start, *won.states[:made])])
    top, word = probabilities.max(-1)
    return BoardThinking(
        puzzle=puzzle[0].tolist(),
        boards=torch.where(given, puzzle, word + 1).tolist(),
        confidence=top.masked_fill(given, 1.0).tolist(),
        energies=[*won.energies[:made].sum((1, 2)).tolist(), won.energies[-1].sum().item()],
        winner=int(won.winner),  # type: ignore[arg-type]
        candidate_energies=won.candidates.energies[-1].sum(1).tolist(),
        steps=made,
        forward=won.evaluations.forward,
        backward=won.evaluations.backward,
    )
