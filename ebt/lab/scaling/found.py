"""Results of an axis: losses against the axis, laws, and comparisons of kinds of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ebt.lab.scaling.grid import Grid, Point
from ebt.lab.scaling.laws import FITS, LEAST, Comparison, Curve, Fit, Form, Series, bends, compare, fits, frontier
from ebt.lab.scaling.study import ScalingPlan
from ebt.lab.studies.models import TRANSFORMER
from ebt.lab.studies.runs import Json, Result

Results = Mapping[str, Result]
POWER, FLOOR = FITS
"""The two forms of a law."""
BENDS = "a law with a floor fits clearly better, and its slopes may be equal or the other way round"
LEAST_ALONE = "without the smallest point the slopes may be equal or the other way round"


@dataclass(frozen=True)
class Best:
    """The loss of a run on the measured half, at the update and number of steps that are best on the choosing half."""

    loss: float
    steps: int | None
    update: int | None
    chosen_by: float = math.nan
    """The loss on the choosing half."""


def best(values: Json) -> Best:
    """Return the best loss of a run, NaN if it diverged."""
    tried = [
        (choosing, moment["measured"][i], i + 1, moment["update"])
        for moment in values["curve"]
        for i, choosing in enumerate(moment["choosing"])
        if choosing is not None and moment["measured"][i] is not None
    ]
    if values["stopped"] is not None or not tried:
        return Best(math.nan, None, None)
    chosen_by, loss, steps, update = min(tried)
    return Best(loss, steps, update, chosen_by)


@dataclass(frozen=True)
class Found:
    """The results of one axis."""

    plan: ScalingPlan
    grid: Grid
    results: Results

    def values(self, point: Point, kind: str, seed: int) -> Json:
        return self.results[self.plan.run(self.grid, point, kind, seed).key].values

    @cached_property
    def best(self) -> dict[str, list[list[Best]]]:
        """The best loss of each kind, point and seed."""
        seeds = range(self.plan.seeds)
        return {kind: [[best(self.values(p, kind, s)) for s in seeds] for p in self.grid.points] for kind in self.plan.kinds}

    @cached_property
    def stopped(self) -> list[str]:
        """Names of the runs that diverged."""
        return self._stopped(self.plan.kinds)

    def _stopped(self, kinds: Sequence[str]) -> list[str]:
        runs = [self.plan.run(self.grid, p, kind, s) for p in self.grid.points for kind in kinds
                for s in range(self.plan.seeds)]  # fmt: skip
        return [run.name for run in runs if self.results[run.key].values["stopped"] is not None]

    def curve(self, point: Point, kind: str, seed: int) -> list[tuple[float, float]]:
        """Return pairs of operations and loss along a training run; none if it diverged."""
        return [(operations, loss) for operations, _, loss in self._along(point, kind, seed)]

    def _along(self, point: Point, kind: str, seed: int) -> Curve:
        values = self.values(point, kind, seed)
        each = values["operations"] * point.batch_size * self.plan.subject.per_example(self.grid.data)
        moments = [(moment, best({**values, "curve": [moment]})) for moment in values["curve"]]
        return [(moment["update"] * each, one.chosen_by, one.loss) for moment, one in moments if math.isfinite(one.loss)]

    @cached_property
    def series(self) -> dict[str, Series]:
        """Losses against the axis. On the axis flops, the lowest loss of any size at several numbers of operations."""
        return {kind: self._frontier(kind) if self.grid.axis == "flops" else self._series(kind) for kind in self.plan.kinds}

    def _series(self, kind: str) -> Series:
        points = self.grid.points
        if self.grid.axis == "parameters":
            x = [float(self.values(point, kind, 0)["network"]) for point in points]
        else:
            x = [float(value[0]) for value in self.grid.values]
            if self.grid.axis == "data":  # whole rows
                each = self.plan.subject.per_example(self.grid.data)
                x = [value // each * each for value in x]
        return Series(np.array(x), np.array([[one.loss for one in seeds] for seeds in self.best[kind]]))

    def _frontier(self, kind: str) -> Series:
        points, seeds = self.grid.points, range(self.plan.seeds)
        curves = [[self._along(point, kind, seed) for point in points] for seed in seeds]
        at = [x for sizes in curves for curve in sizes for x, *_ in curve]
        levels = np.geomspace(min(at, default=1.0), max(at, default=10.0), len(points))
        return Series(levels, np.array([frontier(sizes, levels) for sizes in curves]).T)

    @cached_property
    def laws(self) -> dict[Form, dict[str, Fit] | None]:
        return {form: fits(self.series, form) for form in FITS}

    @cached_property
    def compared(self) -> dict[Form, dict[str, Comparison]]:
        """Comparisons of each EBT with Transformer++; empty if there are too few points."""
        found = {form: {} if laws is None else self._compared(laws) for form, laws in self.laws.items()}
        plain, floored = self.laws[POWER] or {}, self.laws[FLOOR] or {}
        for kind, other in found[FLOOR].items():
            if any(bends(self.series[one], plain[one].law, floored[one].law) for one in (kind, TRANSFORMER)):
                found[POWER][kind] = found[POWER][kind].beside(other, BENDS)
        for kind, other in self.without_least.items():
            found[POWER][kind] = found[POWER][kind].beside(other, LEAST_ALONE)
        return found

    @cached_property
    def without_least(self) -> dict[str, Comparison]:
        """Comparisons without the smallest point, because tiny networks, data or batches may behave differently."""
        if len(self.grid.points) < LEAST[FLOOR]:
            return {}
        series = {kind: one.without_least() for kind, one in self.series.items()}
        laws = fits(series, POWER)
        return {} if laws is None else self._compared(laws, series)

    def _compared(self, laws: dict[str, Fit], series: Mapping[str, Series] | None = None) -> dict[str, Comparison]:
        series = self.series if series is None else series
        rival, of_rival = laws[TRANSFORMER], series[TRANSFORMER]
        return {
            kind: compare(fit, rival, series[kind], of_rival, self._diverged(kind))
            for kind, fit in laws.items()
            if kind != TRANSFORMER
        }

    def _diverged(self, kind: str) -> list[str]:
        count = len(self._stopped((kind, TRANSFORMER)))
        return [f"{count} runs diverged"] if count else []

    def numbers(self) -> dict[str, Any]:
        """Return the numbers for ``results.json``."""
        return {
            "points": [
                {
                    "point": asdict(point),
                    "runs": {kind: [asdict(one) for one in self.best[kind][i]] for kind in self.plan.kinds},
                }
                for i, point in enumerate(self.grid.points)
            ],
            "series": {kind: {"x": one.x.tolist(), "losses": one.losses.tolist()} for kind, one in self.series.items()},
            "laws": {
                form: {kind: {"law": asdict(fit.law), "exponent": asdict(fit.exponent), "floor": asdict(fit.floor)}
                       for kind, fit in (laws or {}).items()}
                for form, laws in self.laws.items()
            },
            "without_the_smallest": {kind: asdict(one) for kind, one in self.without_least.items()},
            "compared": {form: {kind: asdict(one) for kind, one in found.items()} for form, found in self.compared.items()},
            "stopped": self.stopped,
        }  # fmt: skip
