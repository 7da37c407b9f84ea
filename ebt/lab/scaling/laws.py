"""Scaling laws: how a loss falls with data, size or operations, how much faster one kind of model falls than another, and
whether that can be told at all.

Letters: P points, S seeds. Losses are (P, S), NaN where a run has none.
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
"""Of a bootstrap."""
DECADE = 10.0
"""A range below it is too small to tell one exponent from another."""
GOOD = 0.9
"""R² below it: the points do not lie on the law."""
FAR = 1e6
"""Laws are not followed further than by this factor beyond the points."""
STEEPEST = 5.0
"""No exponent of a law with a floor is sought above it."""
ROUNDS = 4
"""Of grids of exponents, each over the neighbours of the best one of the last."""
DISTINCT = 3
"""So many different points a draw of a bootstrap has, at least; all but one where that is less."""
TRUSTED = 0.95
"""A share of the draws of a bootstrap without which it is no interval."""


@dataclass(frozen=True)
class Law:
    """``L(x) = floor + scale * x ** -exponent``."""

    scale: float
    exponent: float
    floor: float = 0.0
    """The irreducible loss."""
    r2: float = math.nan
    """Share of the variance of the logarithms of the losses that it explains."""

    def at(self, x: Numbers) -> Numbers:
        return np.asarray(self.floor + self.scale * np.asarray(x, float) ** -self.exponent)


@dataclass(frozen=True)
class Series:
    """A kind of model: ``x`` (P,) and ``losses`` (P, S)."""

    x: Numbers
    losses: Numbers

    def drawn(self, points: Indices, seeds: Indices) -> Series:
        """Some of its points and seeds, or some of them several times."""
        return Series(self.x[points], self.losses[np.ix_(points, seeds)])

    def without_least(self) -> Series:
        """All but the points of the least x."""
        return self.drawn(np.flatnonzero(self.x > self.x.min()), np.arange(self.losses.shape[1]))

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest x of a run that has a loss."""
        x, _ = self.known
        return float(x.min()), float(x.max())

    @property
    def known(self) -> tuple[Numbers, Numbers]:
        """x and loss of every run that has one, flat."""
        losses = self.losses.ravel()
        there = np.isfinite(losses)
        return self.x.repeat(self.losses.shape[1])[there], losses[there]


Form = Literal["power law", "with a floor"]
LEAST: Mapping[Form, int] = {"power law": 2, "with a floor": 4}
"""So many different points a law is fitted to, at least."""


def fit_power(series: Series) -> Law | None:
    """``L = a x^-b``: the line of least squares through the logarithms. None with fewer than two different points."""
    x, losses = (np.log(part) for part in series.known)
    if len(set(x.tolist())) < LEAST["power law"]:
        return None
    b = -slope(x, losses)
    log_a = float(losses.mean() + b * x.mean())
    return _rated(math.exp(log_a), b, 0.0, series)


def fit_floor(series: Series, least: int = LEAST["with a floor"]) -> Law | None:
    """``L = c + a x^-b`` with ``c >= 0``: least squares of relative deviations. None with fewer than ``least`` points.

    For a given exponent the best c and a are those of a linear problem; so only the exponent is sought. It is at least that of
    the power law without a floor, which is the answer where a floor explains nothing more.
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
    """For each exponent the floor and the scale of least squares, neither negative, and the sum of squares."""
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
    """Where two fitted laws are equal."""

    x: float
    low: float | None
    high: float | None
    where: Literal["inside", "below", "above"]
    """With respect to the points."""
    share: float
    """Of the draws of the bootstrap in which the laws cross at all."""


@dataclass(frozen=True)
class Fit:
    """A law of one kind of model, with what the bootstrap says of it."""

    law: Law
    exponent: Estimate
    floor: Estimate
    draws: tuple[Law | None, ...] = field(default=(), repr=False)
    """Laws of the bootstrap's draws, which are the same for all kinds."""


def fits(series: Mapping[str, Series], form: Form, draws: int = DRAWS, seed: int = 0) -> dict[str, Fit] | None:
    """The law of each kind of model; None where there are too few points.

    Intervals are of a bootstrap over points and seeds: both are drawn anew, with replacement, the same for all kinds, so that
    what kinds have in common (data, order) cancels in their ratio. They tend to be too wide rather than too narrow.
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
    """Drawn with replacement, again if there are too few different ones to say anything."""
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
    """The percentile interval, none if too many draws have no value."""
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers or len(numbers) < TRUSTED * len(values):
        return None, None
    low, high = np.quantile(numbers, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """A kind of model against a rival."""

    faster: Estimate
    """By how many per cent its exponent exceeds the rival's: ``100 (b / b_rival - 1)``."""
    crossing: Crossing | None
    doubts: tuple[str, ...]
    """Why nothing can be concluded; empty if something can."""

    @property
    def concluded(self) -> bool:
        return not self.doubts

    def beside(self, other: Comparison, doubt: str) -> Comparison:
        """With a doubt, unless another comparison says the same: with its whole interval, on the same side."""
        low, high = other.faster.low, other.faster.high
        if low is not None and high is not None and min(low * self.faster.mean, high * self.faster.mean) > 0:
            return self
        return replace(self, doubts=(*self.doubts, doubt))


def bends(series: Series, plain: Law, floored: Law) -> bool:
    """Whether a law with a floor fits clearly better than one without: an F-test of the relative deviations (5 %)."""
    from scipy.stats import f

    x, losses = series.known
    left = len(losses) - 3
    without, with_one = (float(((law.at(x) / losses - 1) ** 2).sum()) for law in (plain, floored))
    if left < 1 or with_one <= 0:
        return False
    return bool(f.sf((without - with_one) / (with_one / left), 1, left) < 1 - LEVEL)


def compare(ours: Fit, rival: Fit, of_ours: Series, of_rival: Series, also: Sequence[str] = ()) -> Comparison:
    """Ratio of slopes, crossing, and doubts, with those that are known besides; fits must come from one call of ``fits``."""
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
    """Where two laws are equal, as near as possible to the points between ``ends``; None within ``FAR`` of them."""
    from scipy.optimize import brentq

    low, high = (math.log(end) for end in ends)
    at = np.linspace(low - math.log(FAR), high + math.log(FAR), 1001)

    def difference(t: float | Numbers) -> Numbers:
        return np.log(one.at(np.exp(t))) - np.log(other.at(np.exp(t)))

    values = difference(at)
    changes = np.flatnonzero(np.diff(np.sign(values)))  # a point of the grid may itself be the crossing
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
"""Along a training: operations, which rise, the loss to choose by, and the loss to tell."""


def frontier(curves: Sequence[Curve], levels: Numbers) -> Numbers:
    """The loss, at each level of operations, of the size that is best there; NaN where none has been there.

    Args:
        curves: one for each size. Between evaluations losses are interpolated over the logarithm of operations.
        levels: operations at which to look.
    """
    chosen_by, told = np.full((2, len(curves), len(levels)), math.nan)
    for size, curve in enumerate(curves):
        if curve:
            x, *losses = (np.array(part, float) for part in zip(*curve, strict=True))
            for rows, y in zip((chosen_by, told), losses, strict=True):
                rows[size] = np.interp(np.log(levels), np.log(x), y, left=math.nan, right=math.nan)
    best = np.where(np.isfinite(chosen_by), chosen_by, math.inf).argmin(0)
    return told[best, np.arange(len(levels))]
