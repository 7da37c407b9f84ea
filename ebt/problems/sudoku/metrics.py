"""Sudoku metrics: solved boards against thinking steps and candidates, and the thinking on one board.

Letters: n boards, M candidates, C cells, T steps. Puzzles have 0 at empty cells and digits 1 .. size elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.cells import CellsPoint, CellsScorer, cells_curve
from ebt.evaluation.results import Curve, Measure, Progress
from ebt.models.thinking import Thinking
from ebt.problems.sudoku.models import Boards
from ebt.thinking import Simplex, Thought

MEASURE = Measure("exact", "boards solved (%)", "board", higher=True, percent=True)


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
) -> Curve[CellsPoint]:
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
    scorer = CellsScorer("sudoku", MEASURE, Boards)
    return cells_curve(model, scorer, (puzzles, solutions), steps, candidates, thinking, batch_size, progress, **options)


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
