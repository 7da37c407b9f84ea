"""Graph colouring, as commands see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from colouring.data import GraphData, graphs
from colouring.model import EBTForColouring
from colouring.task import GraphTask
from ebt.evaluation.measure import Scorer, Tally, measure
from ebt.evaluation.results import Curve, Measure, Point, Progress
from ebt.models.exploration import Explored
from ebt.problems.registry import HeldOut, Problem, Request
from ebt.thinking import Thought

MEASURE = Measure("right", "nodes in their colour (%)", "graph", higher=True, percent=True)
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class GraphPoint(Point):
    """Share of the free nodes that have their colour."""

    right: float


class _Graphs(Scorer[GraphPoint]):
    task, measure = "colouring", MEASURE

    def context(self, batch: Pair, device: torch.device) -> Tensor:
        return batch[0].to(device)

    def rows(self, batch: Pair) -> int:
        return len(batch[0])

    scored = rows

    def score(self, batch: Pair, won: Thought, found: Explored, steps: int, candidates: int) -> dict[str, Tensor]:
        free = batch[0][..., -1] == 0
        return {"right": (won.geometry.decide(won.state) + 1 == batch[1])[free]}

    def passes(self, model: Any, batch: Pair, steps: Sequence[int]) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        raise NotImplementedError("there is no rival")

    def point(self, common: dict[str, Any], tally: Tally) -> GraphPoint:
        return GraphPoint(**common, right=tally.mean("right"))


class Colouring(Problem):
    """Nodes to colour."""

    name = "colouring"
    models = (EBTForColouring,)
    task, data, measure = GraphTask, GraphData, MEASURE
    columns = ("right %",)
    options = ("candidates", "rule", "tolerance")
    rules = (*Problem.rules, "decided", "majority")

    def cells(self, point: GraphPoint) -> list[str]:
        return [f"{100 * point.right:.1f}"]

    def told(self, point: GraphPoint) -> str:
        return f"{100 * point.right:.1f} % of nodes in their colour"

    def held_out(self, request: Request) -> HeldOut:
        config = request.model.config
        return HeldOut("new graphs", 64, graphs(request.limit or 64, config.nodes, config.colours, 100 + request.seed))

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[GraphPoint]:
        options.pop("batch_size", None)
        return measure(model, _Graphs(), [held_out.data], steps, candidates, progress=bar, **options)


PROBLEM = Colouring()
