"""Metrics of models of cells (``ebt.models.cells``): exact answers and right cells against thinking steps and candidates.

Shapes: n contexts, C cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.evaluation.measure import Scorer, Tally, measure, thinks
from ebt.evaluation.results import Curve, Kind, Measure, Point, Progress
from ebt.evaluation.statistics import auroc
from ebt.models.cells import Cells
from ebt.models.exploration import Explored
from ebt.models.thinking import Thinking
from ebt.thinking import Thought

Pair = tuple[Tensor, Tensor]
"""Contexts and answers (n, C)."""


@dataclass(frozen=True)
class CellsPoint(Point):
    """Quality of answers: completed boards, or paths in mazes."""

    exact: float
    """Fraction of answers with every cell right."""
    exact_error: float
    """Standard error of ``exact``."""
    cell: float
    """Fraction of free cells that are right."""
    steps_taken: float
    """Mean number of steps taken by a candidate. Below ``steps`` if candidates stop early."""
    board_auroc: float | None
    """How well the energy of an answer separates wrong answers from right ones."""
    cell_auroc: float | None
    """The same for the energies of single free cells."""

    def shown(self) -> list[str]:
        """Return exact, cell and steps_taken as text."""
        return [f"{100 * self.exact:.1f} ±{100 * self.exact_error:.1f}", f"{100 * self.cell:.1f}", f"{self.steps_taken:.1f}"]


def cells_curve(
    model: Any,
    scorer: CellsScorer,
    data: Pair,
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    thinking: Thinking | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    **options: Any,
) -> Curve[CellsPoint]:
    """Measure answers for every number of steps and candidates, on the same contexts.

    Args:
        model: An ``EBTForCells``, or a ``CellsTransformer``, whose steps are iterations of one or several forward passes (a
            single point without a loop).
        scorer: Scorer of the problem.
        data: Contexts and answers (n, C).
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure.
        thinking: See ``ebt.evaluation.measure.measure``.
        batch_size: Maximum number of contexts times candidates at once. Limits the memory.
        progress: See ``ebt.evaluation.measure.measure``.
        **options: Fields of ``Thinking``.

    Raises:
        InputError: If a number is below 1.
    """
    thinking_model = thinks(model)
    at_once = max(1, batch_size // (max(candidates, default=1) if thinking_model else 1))
    batches: Iterable[Any] = zip(*(part.long().split(at_once) for part in data), strict=True)
    kind: Kind = "looped" if not thinking_model and model.config.loop != "none" else "feed-forward"
    return measure(model, scorer, batches, steps, candidates, thinking, progress, total=len(data[0]), kind=kind, **options)


class CellsScorer(Scorer[CellsPoint]):
    """Scores answers.

    Args:
        task: Name of the problem.
        measure: Quality measure of the problem.
        cells: What the problem knows about its cells.
    """

    def __init__(self, task: str, measure: Measure, cells: type[Cells]) -> None:
        self.task, self.measure, self.cells = task, measure, cells

    def context(self, batch: Pair, device: torch.device) -> Tensor:
        return batch[0].to(device)

    def rows(self, batch: Pair) -> int:
        return len(batch[0])

    units = rows

    def scored(self, batch: Pair) -> int:
        return int(self.cells.free(batch[0]).sum())

    def score(self, batch: Pair, won: Thought, found: Explored, steps: int, candidates: int) -> dict[str, Tensor]:
        energies = won.energies[-1].cpu()
        worth = self._worth(batch, won.geometry.decide(won.state).cpu())
        return {**worth, "board_energy": energies.sum(1), "cell_energy": energies[self.cells.free(batch[0])]}

    def passes(self, model: Any, batch: Pair, steps: Sequence[int]) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        every = model(self.context(batch, model.device), iterations=max(steps))
        for step in steps if model.config.loop != "none" else [1]:
            yield step, float(step * model.passes), self._worth(batch, every[step - 1].argmax(-1).cpu())

    def point(self, common: dict[str, Any], tally: Tally) -> CellsPoint:
        wrong, known = tally["board"], "energy" in tally
        exact = 1 - tally.mean("board")
        return CellsPoint(
            **common,
            exact=exact,
            exact_error=math.sqrt(exact * (1 - exact) / len(wrong)),
            cell=1 - tally.mean("cell") if len(tally["cell"]) else 0.0,
            steps_taken=tally.mean("taken"),
            board_auroc=auroc(tally["board_energy"], wrong) if known else None,
            cell_auroc=auroc(tally["cell_energy"], tally["cell"]) if known else None,
        )

    def _worth(self, batch: Pair, classes: Tensor) -> dict[str, Tensor]:
        """Whether each answer, and each free cell, is wrong."""
        free = self.cells.free(batch[0])
        wrong = free & (classes != self.cells.classes(batch[1]))
        return {"board": wrong.any(1), "cell": wrong[free]}
