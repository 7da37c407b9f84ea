"""Means, slopes and correlations with intervals of 95 %; whether a score, such as an energy, knows what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEVEL = 0.95
DRAWS = 2000
"""Of a bootstrap."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, None where it cannot be known."""

    mean: float
    low: float | None
    high: float | None
    count: int
    """How many values it stands on."""

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """As in a table: ``1.23 [1.20, 1.26]``."""
        mean, low, high = ("" if end is None else f"{end:{'+' * sign}.{digits}f}" for end in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if low else mean

    def around(self, digits: int = 2, sign: bool = False) -> str:
        """Where the interval is symmetric: ``1.23 ± 0.03``."""
        half = "" if self.high is None else f" ± {self.high - self.mean:.{digits}f}"
        return f"{self.mean:{'+' * sign}.{digits}f}{half}"


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of independent runs, with Student's interval; without one if there is a single run."""
    from scipy import stats

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean, None, None, count)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def spread(values: Sequence[float]) -> Estimate:
    """The mean of independent runs between the least and the largest: for shares, which Student's interval may leave."""
    low, high = (float(min(values)), float(max(values))) if len(values) > 1 else (None, None)
    return Estimate(float(np.mean(values)), low, high, len(values))


def bootstrap(
    statistic: Callable[[npt.NDArray[Any]], float], count: int, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic of ``count`` independent items, given the indices of those drawn.

    Draws whose statistic is not a number are left out; if that is all of them, the interval is not a number either.
    """
    generator = np.random.default_rng(seed)
    return _percentiles([statistic(generator.integers(0, count, count)) for _ in range(draws)])


def slope(x: Numbers, y: Numbers) -> float:
    """Of the line of least squares through points; not a number where all x are equal."""
    return float(_slopes(x, y))


def _slopes(x: Numbers, y: Numbers) -> Numbers:
    """Of each row of points, (..., points)."""
    away = x - x.mean(-1, keepdims=True)
    square, joint = (away**2).sum(-1), (away * (y - y.mean(-1, keepdims=True))).sum(-1)
    known = square > 1e-12 * np.maximum(1.0, (x**2).sum(-1))
    return np.divide(joint, square, out=np.full_like(joint, math.nan), where=known)


def slope_over(x: Numbers, y: Numbers, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The slope of y against x, both (sets, seeds), with a bootstrap interval: both are drawn anew, with replacement."""
    generator = np.random.default_rng(seed)
    drawn = [[generator.integers(0, size, size) for size in x.shape] for _ in range(draws)]
    sets, seeds = (np.array(numbers) for numbers in zip(*drawn, strict=True))
    where = sets[:, :, None], seeds[:, None, :]
    found = _slopes(x[where].reshape(draws, -1), y[where].reshape(draws, -1)).tolist()
    return _between(slope(x.ravel(), y.ravel()), _percentiles(found), x.size)


def pearson(a: Numbers, b: Numbers) -> float:
    """Linear correlation; not a number where one of both is constant."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan


def spearman(a: Numbers, b: Numbers) -> float:
    """Rank correlation; equal values share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(b))


def correlation(method: Callable[[Numbers, Numbers], float], a: Numbers, b: Numbers, draws: int = 200) -> Estimate:
    """A correlation of two quantities of the parts of rows, (rows, parts), with a bootstrap interval over rows."""
    return _between(method(a, b), bootstrap(lambda rows: method(a[rows], b[rows]), len(a), draws), a.size)


def _between(mean: float, ends: tuple[float, float], count: int) -> Estimate:
    low, high = ends if math.isfinite(ends[0]) else (None, None)
    return Estimate(mean, low, high, count)


def _percentiles(found: Sequence[float]) -> tuple[float, float]:
    numbers = [value for value in found if math.isfinite(value)] or [math.nan]
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def auroc(energy: Tensor, wrong: Tensor) -> float | None:
    """Area under the receiver operating characteristic: the chance that a wrong prediction has more energy than a right one.

    Args:
        energy: energies of predictions, any shape.
        wrong: True where the prediction is wrong, same shape.

    Returns:
        0.5 if the energy tells nothing, 1 if it tells all; None where all predictions are right, or all wrong.
    """
    from torchmetrics.functional.classification import binary_auroc  # takes seconds to import, which few callers need

    wrong = wrong.flatten().long()
    if not 0 < int(wrong.sum()) < wrong.numel():
        return None
    _, rank = energy.flatten().double().unique(return_inverse=True)  # scores outside [0, 1] would be squashed, which makes ties
    return binary_auroc(rank.double() / rank.max().clamp(min=1), wrong).item()


@dataclass(frozen=True)
class RiskCoverage:
    """How often predictions are wrong if only the surest are kept."""

    coverage: list[float]
    """Shares of the predictions that are kept."""
    risk: list[float]
    """Share of those that is wrong."""
    area: float
    """Mean risk over all coverages (AURC): lower is better."""


def risk_coverage(score: Tensor, wrong: Tensor, points: int = 50) -> RiskCoverage:
    """Risk against coverage when predictions of low score are kept first; those of equal score are kept alike.

    Args:
        score: of predictions, any shape; high where the prediction should be doubted.
        wrong: True where the prediction is wrong, same shape.
        points: of the curve.
    """
    score, wrong = score.flatten().double(), wrong.flatten().double()
    _, rank, counts = score.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.double).index_add_(0, rank, wrong) / counts
    risks = shared[rank[score.argsort()]].cumsum(0) / torch.arange(1, len(score) + 1)
    kept = torch.linspace(1 / points, 1, points).mul(len(score)).round().long().clamp(1)
    return RiskCoverage((kept / len(score)).tolist(), risks[kept - 1].tolist(), risks.mean().item())
