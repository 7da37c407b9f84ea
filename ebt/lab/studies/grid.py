"""Training runs of a grid, and criteria of stability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ebt.lab.studies.page import Verdict

FIRST, LARGEST, FINAL, SPREAD = 0.01, 1.1, 0.95, 3.0
"""Limits: relative distance of the first loss from ln V; the largest and the final loss over ln V; percentage between the final
losses of different step sizes."""
LAST = 10
"""Number of last updates whose mean loss is the final loss."""


@dataclass(frozen=True)
class Cell:
    """The settings of a training run of the grid."""

    parameterisation: str
    recipe: str
    lr: float
    step_size: float
    seed: int


@dataclass(frozen=True)
class Trained:
    """The results of a training run."""

    cell: Cell
    losses: list[float]
    """Training loss of each update, in nats per token."""
    guessing: float
    """ln V, the loss of uniform probabilities."""
    stopped: str | None = None
    """The reason for an early end, if the run diverged."""

    @property
    def first(self) -> float:
        """First loss over ln V; infinite if there is none."""
        return self.losses[0] / self.guessing if self.losses else math.inf

    @property
    def largest(self) -> float:
        """Largest loss over ln V; infinite if the run diverged."""
        return max(self.losses) / self.guessing if self.stopped is None else math.inf

    @property
    def final(self) -> float:
        """Mean loss of the last updates; infinite if the run diverged."""
        return fmean(self.losses[-LAST:]) if self.stopped is None else math.inf

    @property
    def spikes(self) -> int:
        """Number of updates with a loss above the limit."""
        return sum(loss > LARGEST * self.guessing for loss in self.losses)

    @property
    def rise(self) -> float:
        """Largest rise of a loss above the lowest previous loss, in nats."""
        least, most = math.inf, 0.0
        for loss in self.losses:
            most, least = max(most, loss - least), min(least, loss)
        return most


def judge(trained: Sequence[Trained]) -> list[Verdict]:
    """Return the verdicts on all criteria. The one on step sizes needs at least two."""
    gone = sum(one.stopped is not None for one in trained)
    first = max(abs(one.first - 1) for one in trained)
    largest, final = (max(getattr(one, name) for one in trained) for name in ("largest", "final"))
    final /= trained[0].guessing
    verdicts = [
        Verdict("no diverged run", gone == 0, f"{gone} of {len(trained)} runs diverged"),
        Verdict("flat start", first <= FIRST, f"the first loss is within {first:.2%} of ln V (limit {FIRST:.0%})"),
        Verdict("no spike", largest <= LARGEST, f"the largest loss of any run is {largest:.3f} ln V (limit {LARGEST})"),
        Verdict("learns", final <= FINAL, f"the largest final loss is {final:.3f} ln V (limit {FINAL})"),
    ]
    if len({one.cell.step_size for one in trained}) > 1:
        spread = max(spreads(trained).values())
        text = f"final losses differ by at most {spread:.2g} % between step sizes (limit {SPREAD:g} %)"
        verdicts.append(Verdict("step size", spread <= SPREAD, text))
    return verdicts


def spreads(trained: Iterable[Trained]) -> dict[tuple[str, str, float, int], float]:
    """Return the percentage by which the largest final loss over step sizes exceeds the smallest, by all other settings."""
    groups: dict[tuple[str, str, float, int], list[float]] = {}
    for one in trained:
        cell = one.cell
        groups.setdefault((cell.parameterisation, cell.recipe, cell.lr, cell.seed), []).append(one.final)
    return {
        key: 100 * (max(found) / min(found) - 1) if math.isfinite(max(found)) else math.inf for key, found in groups.items()
    }
