"""Means, slopes and correlations with intervals of 95 %."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
        plus = "+" if sign else ""
        if self.low is None or self.high is None:
            return f"{self.mean:{plus}.{digits}f}"
        return f"{self.mean:{plus}.{digits}f} [{self.low:{plus}.{digits}f}, {self.high:{plus}.{digits}f}]"

    def around(self, digits: int = 2, sign: bool = False) -> str:
        """Where the interval is symmetric: ``1.23 ± 0.03``."""
        half = "" if self.high is None else f" ± {self.high - self.mean:.{digits}f}"
        return f"{self.mean:{'+' if sign else ''}.{digits}f}{half}"


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
    several = len(values) > 1
    low, high = (float(min(values)), float(max(values))) if several else (None, None)
    return Estimate(float(np.mean(values)), low, high, len(values))


def bootstrap(
    statistic: Callable[[npt.NDArray[Any]], float], count: int, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a statistic of ``count`` independent items, given the indices of those drawn.

    Draws whose statistic is not a number are left out; if that is all of them, the interval is not a number either.
    """
    generator = np.random.default_rng(seed)
    found = [statistic(generator.integers(0, count, count)) for _ in range(draws)]
    return _percentiles(found)


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
    low, high = _percentiles(_slopes(x[where].reshape(draws, -1), y[where].reshape(draws, -1)).tolist())
    known = math.isfinite(low)
    return Estimate(slope(x.ravel(), y.ravel()), low if known else None, high if known else None, x.size)


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
    low, high = bootstrap(lambda rows: method(a[rows], b[rows]), len(a), draws)
    known = math.isfinite(low)
    return Estimate(method(a, b), low if known else None, high if known else None, a.size)


def _percentiles(found: Sequence[float]) -> tuple[float, float]:
    numbers = [value for value in found if math.isfinite(value)]
    if not numbers:
        return math.nan, math.nan
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
