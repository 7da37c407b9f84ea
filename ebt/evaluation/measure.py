"""Measure quality against numbers of steps and candidates, for any problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.alarms import alarms
from ebt.evaluation.results import Curve, Kind, Measure, P, Progress
from ebt.models.exploration import Explored, check_counts, evaluations
from ebt.models.thinking import Thinking
from ebt.thinking import Thought


def thinks(model: Any) -> bool:
    """Whether a model descends an energy. Otherwise it is a feed-forward or looped baseline."""
    return hasattr(model, "landscape")


class Tally:
    """Values for one number of steps and candidates, collected by name over all batches."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self._parts[name].append(tensor.detach().reshape(-1).cpu())

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat(self._parts[name])

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def mean(self, name: str, units: int | None = None) -> float:
        """Mean of the values, or their sum divided by ``units``, in float64."""
        total = self[name].double()
        return total.mean().item() if units is None else total.sum().item() / units


class Scorer(ABC, Generic[P]):
    """Scores answers for one problem. Batches are those passed to ``measure``."""

    task: str
    measure: Measure

    @abstractmethod
    def context(self, batch: Any, device: torch.device) -> Any:
        """Input of the model."""

    @abstractmethod
    def rows(self, batch: Any) -> int:
        """Number of rows in a batch."""

    @abstractmethod
    def scored(self, batch: Any) -> int:
        """Number of predictions that count: tokens, empty cells, images or frames."""

    def units(self, batch: Any) -> int:
        """Number of units by which energies are divided."""
        return self.scored(batch)

    def counts(self, batch: Any) -> Tensor | None:
        """Mask (B, *P) of the parts whose energies count. None: all."""
        return None

    @abstractmethod
    def score(self, batch: Any, won: Thought, found: Explored, steps: int, candidates: int) -> dict[str, Tensor]:
        """Score the winners."""

    @abstractmethod
    def passes(self, model: Any, batch: Any, steps: Sequence[int]) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        """For a model that does not think: iterations, forward passes and scores."""

    @abstractmethod
    def point(self, common: dict[str, Any], tally: Tally) -> P:
        """A point of the curve. ``common`` holds the fields of ``Point``."""


@torch.no_grad()
def measure(
    model: Any,
    scorer: Scorer[P],
    batches: Iterable[Any],
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    thinking: Thinking | None = None,
    progress: Progress | None = None,
    total: int | None = None,
    kind: Kind = "feed-forward",
    **options: Any,
) -> Curve[P]:
    """Measure quality for every number of steps and candidates, on the same predictions.

    Each batch takes one descent with the largest numbers; smaller numbers of candidates use the first ones. Winners are chosen
    per prediction, by their energy after each number of steps. All states are kept, so batches should be small.

    Args:
        model: A model that thinks, or a baseline.
        scorer: Scorer of the problem.
        batches: Data.
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure.
        thinking: Other thinking options. Default: the model's own settings.
        progress: Called with the number of rows done and ``total`` after each batch.
        total: Total number of rows, if known.
        kind: Kind of a model that does not think.
        **options: Fields of ``Thinking`` to override.

    Returns:
        A curve with one point per number of steps and candidates.

    Raises:
        InputError: If a number of steps or candidates is below 1, or no prediction counts.
    """
    steps, candidates = check_counts("steps", steps), check_counts("candidates", candidates)
    tallies: dict[tuple[int, int], Tally] = defaultdict(Tally)
    inner = False
    rows, scored, units, start, alarmed, how = 0, 0, 0, 0.0, list[str](), None
    for batch in batches:
        size = scorer.rows(batch)
        if thinks(model):
            found = model.explore(scorer.context(batch, model.device), steps, candidates, thinking, **options)
            counts = scorer.counts(batch)
            kept: Any = slice(None) if counts is None else counts.to(found.first.start.device)
            alarmed, how = alarmed or (alarms(found.first) if not rows else []), found.how
            inner = found.differentiates
            start += found.first.energies[0][kept].double().sum().item()
            for key in ((step, count) for step in steps for count in candidates):
                won = found.at(*key)
                tallies[key].add(**scorer.score(batch, won, found, *key), taken=torch.full((size,), found.taken(*key)))
                tallies[key].add(energy=won.energies[-1][kept], objective=won.objective(0)[kept])
        else:
            for step, passes, worth in scorer.passes(model, batch, steps):
                tallies[step, 1].add(**worth, taken=torch.full((size,), float(step)), passes=torch.full((size,), passes))
        rows, scored, units = rows + size, scored + scorer.scored(batch), units + scorer.units(batch)
        if progress:
            progress(rows, total)
    if not scored:
        raise InputError("nothing to score: give data with at least one prediction that counts")
    points = [
        scorer.point(_common(*key, tally, units, inner, how.rule if how else "lowest"), tally) for key, tally in tallies.items()
    ]
    if how is None:
        return Curve(scorer.task, scorer.measure, kind, points, rows, scored)
    ends = how.rule, how.tolerance, how.seed, start / units, tuple(alarmed)
    return Curve(scorer.task, scorer.measure, "ebt", points, rows, scored, *ends)


def _common(steps: int, candidates: int, tally: Tally, units: int, inner: bool, rule: str) -> dict[str, Any]:
    known, taken = "energy" in tally, tally.mean("taken")
    forward, backward = evaluations(taken, candidates, inner, rule) if known else (tally.mean("passes"), 0.0)
    told = {name: tally.mean(name, units) if known else None for name in ("energy", "objective")}
    return {"steps": steps, "candidates": candidates, **told, "forward": forward, "backward": backward}
