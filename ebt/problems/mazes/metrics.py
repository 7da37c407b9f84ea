"""Maze metrics: exact paths against thinking steps and candidates, and the thinking on one maze.

Shapes: k mazes of n x n = C squares, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.cells import CellsPoint, CellsScorer, cells_curve
from ebt.evaluation.measure import thinks
from ebt.evaluation.results import Curve, Measure, Progress
from ebt.models.thinking import Thinking
from ebt.problems.mazes.models import Mazes
from ebt.thinking import Simplex

MEASURE = Measure("exact", "exact paths (%)", "maze", higher=True, percent=True)


REFERENCE = 15
"""Size of mazes for which a batch size is meant. Of larger ones there are fewer at once."""


def rows_at_once(batch_size: int, size: int) -> int:
    """Return how many mazes of a size take as much memory for attention as ``batch_size`` ones of 15 x 15 squares."""
    return max(1, batch_size * REFERENCE**4 // max(size, REFERENCE) ** 4)


def maze_curve(
    model: Any,
    mazes: Tensor,
    paths: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    thinking: Thinking | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    **options: Any,
) -> Curve[CellsPoint]:
    """Measure marked paths for every number of steps and candidates, on the same mazes.

    Args:
        model: An ``EBTForMazes``, or a ``MazeTransformer``, whose steps are iterations of one or several forward passes (a
            single point without a loop).
        mazes: (k, n, n) or (k, C).
        paths: The same shape, 1 on the path.
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure.
        thinking: See ``ebt.evaluation.measure.measure``.
        batch_size: Maximum number of mazes times candidates at once. Limits the memory.
        progress: See ``ebt.evaluation.measure.measure``.
        **options: Fields of ``Thinking``.

    Raises:
        InputError: If a number is below 1, there are no mazes, or mazes and paths differ in shape.
    """
    if mazes.shape != paths.shape or not len(mazes):
        shapes = f"mazes {tuple(mazes.shape)}, paths {tuple(paths.shape)}"
        raise InputError(f"{shapes}: give one or more mazes, each with a path.")
    scorer, data = CellsScorer("mazes", MEASURE, Mazes), (mazes.flatten(1), paths.flatten(1))
    return cells_curve(model, scorer, data, steps, candidates, thinking, batch_size, progress, **options)


@dataclass(frozen=True)
class MazeThinking:
    """Thinking on one maze, at the start and after each step."""

    maze: list[int]
    """The C squares."""
    path: list[list[float]]
    """(T + 1, C) probability that a square lies on the path: 0 for walls, 1 for start and goal. A model without an energy has
    no start, and T rows."""
    energies: list[float]
    """(T + 1) energy of the maze. Empty for a model without an energy."""


@torch.no_grad()
def watch_maze(
    model: Any, maze: Tensor, steps: int | None = None, thinking: Thinking | None = None, **options: Any
) -> MazeThinking:
    """Think about one maze (C,) and record the path after every step, or iteration of a loop. For the options see ``think``."""
    squares = maze.to(model.device).long().reshape(1, -1)
    if not thinks(model):
        every, energies = torch.cat(model(squares, steps or 1)), list[float]()
    else:
        thought = model.think(squares, thinking, steps=steps, **options)
        made, geometry = int(thought.steps), thought.geometry
        assert isinstance(geometry, Simplex)
        every = torch.cat([geometry.logits(state) for state in (thought.start, *thought.states[:made])])
        energies = [*thought.energies[:made].sum((1, 2)).tolist(), thought.energies[-1].sum().item()]
    path = Mazes.fill(squares, every.softmax(-1)[..., 1])
    return MazeThinking(squares[0].tolist(), path.tolist(), energies)
