"""Means, slopes and correlations with 95% intervals, and measures of error detection by a score (for example the energy)."""

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
"""Number of bootstrap draws."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. The ends are None if unknown."""

    mean: float
    low: float | None
    high: float | None
    count: int
    """Number of values it is based on."""

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """Format as ``1.23 [1.20, 1.26]``."""
        mean, low, high = ("" if end is None else f"{end:{'+' * sign}.{digits}f}" for end in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if low else mean

    def around(self, digits: int = 2, sign: bool = False) -> str:
        """Format a symmetric interval as ``1.23 ± 0.03``."""
        half = "" if self.high is None else f" ± {self.high - self.mean:.{digits}f}"
        return f"{self.mean:{'+' * sign}.{digits}f}{half}"


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of independent runs with Student's t interval. A single run has no interval."""
    from scipy import stats

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean, None, None, count)
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half, count)


def spread(values: Sequence[float]) -> Estimate:
    """Mean of independent runs with their range. For fractions, since a t interval may leave [0, 1]."""
    low, high = (float(min(values)), float(max(values))) if len(values) > 1 else (None, None)
    return Estimate(float(np.mean(values)), low, high, len(values))


def bootstrap(
    statistic: Callable[[npt.NDArray[Any]], float], count: int, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap percentile interval of ``statistic(indices)`` over ``count`` independent items.

    NaN values are left out. If all values are NaN, so is the interval.
    """
    generator = np.random.default_rng(seed)
    return _percentiles([statistic(generator.integers(0, count, count)) for _ in range(draws)])


def slope(x: Numbers, y: Numbers) -> float:
    """Slope of the least squares line. NaN if all x are equal."""
    return float(_slopes(x, y))


def _slopes(x: Numbers, y: Numbers) -> Numbers:
    """Slope for each row of points (..., points)."""
    away = x - x.mean(-1, keepdims=True)
    square, joint = (away**2).sum(-1), (away * (y - y.mean(-1, keepdims=True))).sum(-1)
    known = square > 1e-12 * np.maximum(1.0, (x**2).sum(-1))
    return np.divide(joint, square, out=np.full_like(joint, math.nan), where=known)


def slope_over(x: Numbers, y: Numbers, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """Slope of y against x, both (sets, seeds), with a bootstrap interval over sets and seeds."""
    generator = np.random.default_rng(seed)
    drawn = [[generator.integers(0, size, size) for size in x.shape] for _ in range(draws)]
    sets, seeds = (np.array(numbers) for numbers in zip(*drawn, strict=True))
    where = sets[:, :, None], seeds[:, None, :]
    found = _slopes(x[where].reshape(draws, -1), y[where].reshape(draws, -1)).tolist()
    return _between(slope(x.ravel(), y.ravel()), _percentiles(found), x.size)


def pearson(a: Numbers, b: Numbers) -> float:
    """Linear correlation. NaN if one of the inputs is constant."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan


def spearman(a: Numbers, b: Numbers) -> float:
    """Rank correlation. Ties share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(a), rankdata(b))


def correlation(method: Callable[[Numbers, Numbers], float], a: Numbers, b: Numbers, draws: int = 200) -> Estimate:
    """Correlation of two arrays (rows, parts), with a bootstrap interval over rows."""
    return _between(method(a, b), bootstrap(lambda rows: method(a[rows], b[rows]), len(a), draws), a.size)


def _between(mean: float, ends: tuple[float, float], count: int) -> Estimate:
    low, high = ends if math.isfinite(ends[0]) else (None, None)
    return Estimate(mean, low, high, count)


def _percentiles(found: Sequence[float]) -> tuple[float, float]:
    numbers = [value for value in found if math.isfinite(value)] or [math.nan]
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def auroc(energy: Tensor, wrong: Tensor) -> float | None:
    """Area under the ROC curve: the probability that a wrong prediction has a higher energy than a correct one.

    Args:
        energy: Energies of predictions, of any shape.
        wrong: True where the prediction is wrong, same shape.

    Returns:
        0.5 for an uninformative energy, 1 for perfect detection. None if all predictions are correct or all are wrong.
    """
    from torchmetrics.functional.classification import binary_auroc  # slow to import, so imported on use

    wrong = wrong.flatten().long()
    if not 0 < int(wrong.sum()) < wrong.numel():
        return None
    _, rank = energy.flatten().double().unique(return_inverse=True)  # a sigmoid of raw scores would create ties
    return binary_auroc(rank.double() / rank.max().clamp(min=1), wrong).item()


@dataclass(frozen=True)
class RiskCoverage:
    """Error rate if only the most confident predictions are kept."""

    coverage: list[float]
    """Fractions of the predictions kept."""
    risk: list[float]
    """Fraction of the kept predictions that is wrong."""
    area: float
    """Mean risk over all coverages (AURC). Lower is better."""


def risk_coverage(score: Tensor, wrong: Tensor, points: int = 50) -> RiskCoverage:
    """Risk against coverage, keeping predictions of low score first. Ties share their mean risk.

    Args:
        score: Scores of predictions, of any shape. Higher means less confident.
        wrong: True where the prediction is wrong, same shape.
        points: Number of points on the curve.
    """
    score, wrong = score.flatten().double(), wrong.flatten().double()
    _, rank, counts = score.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.double).index_add_(0, rank, wrong) / counts
    risks = shared[rank[score.argsort()]].cumsum(0) / torch.arange(1, len(score) + 1)
    kept = torch.linspace(1 / points, 1, points).mul(len(score)).round().long().clamp(1)
    return RiskCoverage((kept / len(score)).tolist(), risks[kept - 1].tolist(), risks.mean().item())
