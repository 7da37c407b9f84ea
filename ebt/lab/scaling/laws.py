"""Scaling laws: fits of loss against data, size or operations, and comparisons of exponents with their uncertainty.

Symbols: P points, S seeds. Losses are (P, S), NaN where a run has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ebt.evaluation.statistics import LEVEL, Estimate, Numbers, slope

Indices = npt.NDArray[np.int64]
DRAWS = 1000
"""Number of bootstrap draws."""
DECADE = 10.0
"""Minimum range of x (as a factor) to distinguish exponents."""
GOOD = 0.9
"""Minimum R² of a good fit."""
FAR = 1e6
"""Factor beyond the points up to which laws are extrapolated."""
STEEPEST = 5.0
"""Maximum exponent of a law with a floor."""
ROUNDS = 4
"""Number of successively finer grids of exponents."""
DISTINCT = 3
"""Minimum number of distinct points in a bootstrap draw; one less than all points if that is fewer."""
TRUSTED = 0.95
"""Minimum share of bootstrap draws with a value for an interval."""


@dataclass(frozen=True)
class Law:
    """``L(x) = floor + scale * x ** -exponent``."""

    scale: float
    exponent: float
    floor: float = 0.0
    """The irreducible loss."""
    r2: float = math.nan
    """Explained share of the variance of the log losses."""

    def at(self, x: Numbers) -> Numbers:
        return np.asarray(self.floor + self.scale * np.asarray(x, float) ** -self.exponent)


@dataclass(frozen=True)
class Series:
    """The data of a kind of model: ``x`` (P,) and ``losses`` (P, S)."""

    x: Numbers
    losses: Numbers

    def drawn(self, points: Indices, seeds: Indices) -> Series:
        """Return selected points and seeds, possibly with repetitions."""
        return Series(self.x[points], self.losses[np.ix_(points, seeds)])

    def without_least(self) -> Series:
        """Return all points except those of the smallest x."""
        return self.drawn(np.flatnonzero(self.x > self.x.min()), np.arange(self.losses.shape[1]))

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest x with a loss."""
        x, _ = self.known
        return float(x.min()), float(x.max())

    @property
    def known(self) -> tuple[Numbers, Numbers]:
        """x and loss of all runs with a loss, flattened."""
        losses = self.losses.ravel()
        there = np.isfinite(losses)
        return self.x.repeat(self.losses.shape[1])[there], losses[there]


Form = Literal["power law", "with a floor"]
LEAST: Mapping[Form, int] = {"power law": 2, "with a floor": 4}
"""Minimum number of distinct points of a fit."""


def fit_power(series: Series) -> Law | None:
    """Fit ``L = a x^-b`` by least squares of logarithms. None with fewer than two distinct points."""
    x, losses = (np.log(part) for part in series.known)
    if len(set(x.tolist())) < LEAST["power law"]:
        return None
    b = -slope(x, losses)
    log_a = float(losses.mean() + b * x.mean())
    return _rated(math.exp(log_a), b, 0.0, series)


def fit_floor(series: Series, least: int = LEAST["with a floor"]) -> Law | None:
    """Fit ``L = c + a x^-b`` with ``c >= 0`` by least squares of relative deviations. None with fewer than ``least`` points.

    For a fixed exponent, the problem is linear in c and a, so only the exponent is searched. It is at least that of the power
    law without a floor, which is the result if a floor explains nothing more.
    """
    plain = fit_power(series)
    x, losses = series.known
    if plain is None or len(set(x.tolist())) < least:
        return None
    if plain.exponent <= 0:
        return plain
    middle = math.exp(float(np.log(x).mean()))
    low, high = plain.exponent, max(STEEPEST, 2 * plain.exponent)
    for _ in range(ROUNDS):
        exponents = np.geomspace(low, high, 64)
        floors, scales, squares = _solve(exponents, x / middle, losses)
        best = int(squares.argmin())
        low, high = exponents[max(0, best - 1)], exponents[min(len(exponents) - 1, best + 1)]
    b = float(exponents[best])
    return _rated(float(scales[best]) * middle**b, b, float(floors[best]), series)


def _solve(exponents: Numbers, x: Numbers, losses: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return the non-negative least-squares floor and scale of each exponent, and the sum of squares."""
    one, power = 1 / losses, x ** -exponents[:, None] / losses
    aa, ab, bb, a, b = one @ one, power @ one, (power * power).sum(-1), one.sum(), power.sum(-1)
    determinant = np.maximum(aa * bb - ab * ab, 1e-300)
    floor, scale = (bb * a - ab * b) / determinant, (aa * b - ab * a) / determinant
    below = floor < 0
    floor, scale = np.where(below, 0.0, floor), np.where(below, b / bb, scale)
    rising = scale < 0
    floor, scale = np.where(rising, a / aa, floor), np.where(rising, 0.0, scale)
    return floor, scale, ((floor[:, None] * one + scale[:, None] * power - 1) ** 2).sum(-1)


def _rated(scale: float, exponent: float, floor: float, series: Series) -> Law:
    x, losses = series.known
    logs = np.log(losses)
    left = ((logs - np.log(Law(scale, exponent, floor).at(x))) ** 2).sum()
    whole = ((logs - logs.mean()) ** 2).sum()
    return Law(scale, exponent, floor, float(1 - left / whole) if whole > 0 else math.nan)


FITS: Mapping[Form, Callable[[Series], Law | None]] = {"power law": fit_power, "with a floor": fit_floor}


@dataclass(frozen=True)
class Crossing:
    """The point where two fitted laws cross."""

    x: float
    low: float | None
    high: float | None
    where: Literal["inside", "below", "above"]
    """Position relative to the range of the points."""
    share: float
    """Share of bootstrap draws in which the laws cross."""


@dataclass(frozen=True)
class Fit:
    """The law of a kind of model, with bootstrap intervals."""

    law: Law
    exponent: Estimate
    floor: Estimate
    draws: tuple[Law | None, ...] = field(default=(), repr=False)
    """Laws of the bootstrap draws, which are the same for all kinds."""


def fits(series: Mapping[str, Series], form: Form, draws: int = DRAWS, seed: int = 0) -> dict[str, Fit] | None:
    """Fit the law of each kind of model. None if there are too few points.

    Intervals come from a bootstrap over points and seeds. The draws are the same for all kinds, so that common effects (data,
    order) cancel in ratios. The intervals tend to be too wide rather than too narrow.
    """
    laws = {kind: FITS[form](one) for kind, one in series.items()}
    if any(law is None for law in laws.values()):
        return None
    generator, (many, runs) = np.random.default_rng(seed), map(int, next(iter(series.values())).losses.shape)
    fitted: dict[str, list[Law | None]] = {kind: [] for kind in series}
    for _ in range(draws):
        points = _points(many, generator)
        seeds = generator.integers(0, runs, runs)
        for kind, one in series.items():
            part = one.drawn(points, seeds)
            fitted[kind].append(fit_power(part) if form == "power law" else fit_floor(part, DISTINCT))
    return {kind: _fit(law, tuple(fitted[kind]), series[kind]) for kind, law in laws.items() if law is not None}


def _points(count: int, generator: np.random.Generator) -> Indices:
    """Draw points with replacement, until enough of them are distinct."""
    while True:
        points = generator.integers(0, count, count)
        if len(set(points.tolist())) >= min(DISTINCT, count - 1):
            return points


def _fit(law: Law, draws: tuple[Law | None, ...], series: Series) -> Fit:
    count = int(np.isfinite(series.losses).sum())

    def estimate(name: str) -> Estimate:
        low, high = _interval([math.nan if one is None else getattr(one, name) for one in draws])
        return Estimate(getattr(law, name), low, high, count)

    return Fit(law, estimate("exponent"), estimate("floor"), draws)


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the percentile interval, or None if too many draws have no value."""
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers or len(numbers) < TRUSTED * len(values):
        return None, None
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Comparison of a kind of model with a baseline."""

    faster: Estimate
    """Percentage by which its exponent exceeds the baseline's: ``100 (b / b_rival - 1)``."""
    crossing: Crossing | None
    doubts: tuple[str, ...]
    """Reasons against a conclusion; empty if there is a conclusion."""

    @property
    def concluded(self) -> bool:
        return not self.doubts

    def beside(self, other: Comparison, doubt: str) -> Comparison:
        """Add a doubt unless the whole interval of another comparison lies on the same side."""
        low, high = other.faster.low, other.faster.high
        if low is not None and high is not None and min(low * self.faster.mean, high * self.faster.mean) > 0:
            return self
        return replace(self, doubts=(*self.doubts, doubt))


def bends(series: Series, plain: Law, floored: Law) -> bool:
    """Whether a floor improves the fit significantly: an F-test of the relative deviations at 5 %."""
    from scipy.stats import f

    x, losses = series.known
    left = len(losses) - 3
    without, with_one = (float(((law.at(x) / losses - 1) ** 2).sum()) for law in (plain, floored))
    if left < 1 or with_one <= 0:
        return False
    return bool(f.sf((without - with_one) / (with_one / left), 1, left) < 1 - LEVEL)


def compare(ours: Fit, rival: Fit, of_ours: Series, of_rival: Series, also: Sequence[str] = ()) -> Comparison:
    """Compare two fits from the same call of ``fits``. ``also`` are additional doubts."""
    ratios = [_ratio(one, other) for one, other in zip(ours.draws, rival.draws, strict=True)]
    low, high = _interval(ratios)
    known = rival.law.exponent > 0
    faster = Estimate(_ratio(ours.law, rival.law), low if known else None, high if known else None, ours.exponent.count)
    ends = min(of_ours.ends[0], of_rival.ends[0]), max(of_ours.ends[1], of_rival.ends[1])
    doubts = (*also, *_doubts(ours, rival, of_ours, of_rival, faster))
    return Comparison(faster, _crossing(ours, rival, ends), doubts)


def _ratio(one: Law | None, other: Law | None) -> float:
    if one is None or other is None or other.exponent <= 0:
        return math.nan
    return 100 * (one.exponent / other.exponent - 1)


def crossing(one: Law, other: Law, ends: tuple[float, float]) -> float | None:
    """Return the crossing of two laws closest to the range ``ends``; None if there is none within a factor ``FAR`` of it."""
    from scipy.optimize import brentq

    low, high = (math.log(end) for end in ends)
    at = np.linspace(low - math.log(FAR), high + math.log(FAR), 1001)

    def difference(t: float | Numbers) -> Numbers:
        return np.log(one.at(np.exp(t))) - np.log(other.at(np.exp(t)))

    values = difference(at)
    changes = np.flatnonzero(np.diff(np.sign(values)))  # a grid point may itself be the crossing
    if not len(changes):
        return None
    nearest = min(changes, key=lambda i: max(low - at[i + 1], at[i] - high, 0.0))
    return math.exp(float(brentq(lambda t: float(difference(t)), at[nearest], at[nearest + 1])))


def _crossing(ours: Fit, rival: Fit, ends: tuple[float, float]) -> Crossing | None:
    x = crossing(ours.law, rival.law, ends)
    if x is None:
        return None
    pairs = [(a, b) for a, b in zip(ours.draws, rival.draws, strict=True) if a is not None and b is not None]
    drawn = [found for a, b in pairs if (found := crossing(a, b, ends)) is not None]
    low, high = _interval([*drawn, *[math.nan] * (len(pairs) - len(drawn))])
    where: Literal["inside", "below", "above"] = "below" if x < ends[0] else "above" if x > ends[1] else "inside"
    return Crossing(x, low, high, where, len(drawn) / len(pairs) if pairs else 0.0)


def _doubts(ours: Fit, rival: Fit, of_ours: Series, of_rival: Series, faster: Estimate) -> list[str]:
    found = []
    span = min(one.ends[1] / one.ends[0] for one in (of_ours, of_rival))
    if span < DECADE:
        found.append(f"the points span a factor of {span:.3g}, less than a decade")
    if of_ours.losses.shape[1] < 2:
        found.append("there is one seed alone")
    if min(ours.law.exponent, rival.law.exponent) <= 0:
        found.append("a loss does not fall along the axis")
    elif faster.low is None or faster.high is None:
        found.append("the slopes are too uncertain for an interval of their ratio")
    elif faster.low <= 0 <= faster.high:
        found.append("the interval of the ratio of slopes includes equal slopes")
    poor = min((fit.law.r2 for fit in (ours, rival)), default=math.nan)
    if not poor >= GOOD:
        found.append(f"the points lie poorly on the law (R² {poor:.2f}, {GOOD} is asked for)")
    return found


Curve = Sequence[tuple[float, float, float]]
"""A training run: increasing operations, the loss for choosing, and the loss to report."""


def frontier(curves: Sequence[Curve], levels: Numbers) -> Numbers:
    """Return the loss of the best size at each number of operations; NaN where no size has been evaluated.

    Args:
        curves: A curve per size. Losses are interpolated over the logarithm of operations.
        levels: Numbers of operations.
    """
    chosen_by, told = np.full((2, len(curves), len(levels)), math.nan)
    for size, curve in enumerate(curves):
        if curve:
            x, *losses = (np.array(part, float) for part in zip(*curve, strict=True))
            for rows, y in zip((chosen_by, told), losses, strict=True):
                rows[size] = np.interp(np.log(levels), np.log(x), y, left=math.nan, right=math.nan)
    best = np.where(np.isfinite(chosen_by), chosen_by, math.inf).argmin(0)
    return told[best, np.arange(len(levels))]
