"""Scaling laws are found again in losses made of them, and what cannot be told is said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ebt.lab.scaling.found import LEAST_ALONE, Found
from ebt.lab.scaling.laws import Law, Series, bends, compare, crossing, fit_floor, fit_power, fits, frontier
from ebt.lab.studies.models import TRANSFORMER

X = np.geomspace(1e4, 1e6, 5)


def made(law: Law, noise: float = 0.0, seed: int = 0, x: Any = X, seeds: int = 3) -> Series:
    """Losses of a law with noise on their logarithms, of its own for every run."""
    generator = np.random.default_rng(seed)
    return Series(x, law.at(x)[:, None] * np.exp(noise * generator.normal(size=(len(x), seeds))))


exponents = st.floats(0.02, 0.6)


@given(st.floats(0.5, 100), exponents)
def test_a_power_law_is_found_again(scale: float, exponent: float) -> None:
    found = fit_power(made(Law(scale, exponent)))
    assert found is not None
    assert (found.scale, found.exponent, found.floor, found.r2) == pytest.approx((scale, exponent, 0, 1))


@given(st.floats(0.1, 3), st.floats(0.1, 2), st.floats(0.1, 1.2))
def test_an_irreducible_loss_is_found_again(floor: float, reducible: float, exponent: float) -> None:
    law = Law(reducible * X[0] ** exponent, exponent, floor)
    found = fit_floor(made(law))
    assert found is not None
    assert found.at(X) == pytest.approx(law.at(X), rel=1e-3)
    assert (found.exponent, found.floor) == pytest.approx((exponent, floor), rel=0.1)
    plain = fit_power(made(law))
    assert plain is not None
    assert plain.exponent < exponent  # a floor that nobody asks for makes a law look flat


def test_without_a_floor_none_is_found() -> None:
    found = fit_floor(made(Law(20.0, 0.2)))
    assert found is not None
    assert (found.exponent, found.floor) == pytest.approx((0.2, 0), abs=1e-3)
    curved = fit_floor(Series(X, (8 - np.log10(X))[:, None]))  # falls ever faster
    assert curved is not None
    assert curved.floor == 0


def test_too_few_points_have_no_law() -> None:
    assert fit_floor(made(Law(1, 0.2), x=X[:3])) is None
    assert fit_power(made(Law(1, 0.2), x=X[:1])) is None
    assert fits({"a": made(Law(1, 0.2), x=X[:3])}, "with a floor") is None
    holes = made(Law(5, 0.2))
    holes.losses[2] = math.nan  # diverged: the others are fitted
    found = fit_power(holes)
    assert found is not None
    assert found.exponent == pytest.approx(0.2)


def test_a_rising_loss_has_a_negative_exponent_and_no_floor() -> None:
    found = fit_floor(made(Law(1.0, -0.1)))
    assert found is not None
    assert (found.exponent, found.floor) == pytest.approx((-0.1, 0))


@pytest.mark.parametrize(("form", "floor", "noise", "sets"), [("power law", 0.0, 0.01, 50), ("with a floor", 1.0, 0.004, 8)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(form: Any, floor: float, noise: float, sets: int) -> None:
    ours, rival, inside = Law(20, 0.25, floor), Law(18, 0.2, floor), []
    for seed in range(sets):
        series = {"ours": made(ours, noise, seed), "rival": made(rival, noise, 1000 + seed)}
        found = fits(series, form, draws=120)
        assert found is not None
        told = compare(found["ours"], found["rival"], series["ours"], series["rival"]).faster
        for estimate, truth in ((told, 25.0), (found["ours"].exponent, 0.25), (found["ours"].floor, floor)):
            assert estimate.low is not None
            assert estimate.high is not None
            inside.append(estimate.low - 1e-9 <= truth <= estimate.high + 1e-9)
    assert np.mean(inside) >= 0.9


def told(ours: Law, rival: Law, noise: float = 0.002, **how: Any) -> Any:
    series = {"ours": made(ours, noise, 1, **how), "rival": made(rival, noise, 2, **how)}
    found = fits(series, "power law", draws=200)
    assert found is not None
    return compare(found["ours"], found["rival"], series["ours"], series["rival"])


def test_a_clear_difference_is_concluded() -> None:
    found = told(Law(20, 0.25), Law(18, 0.2))
    assert found.concluded
    assert found.faster.low < 25 < found.faster.high
    assert found.faster.low > 0


@pytest.mark.parametrize(
    ("ours", "noise", "how", "doubt"),
    [
        (Law(20, 0.201), 0.01, {}, "includes equal slopes"),
        (Law(20, 0.25), 0.002, {"x": np.geomspace(1, 8, 5)}, "span a factor of 8, less than a decade"),
        (Law(20, 0.25), 0.002, {"seeds": 1}, "one seed alone"),
        (Law(20, 0.25), 1.0, {}, "poorly on the law"),
        (Law(1, -0.1), 0.002, {}, "does not fall"),
    ],
)
def test_what_cannot_be_told_is_said(ours: Law, noise: float, how: Any, doubt: str) -> None:
    found = told(ours, Law(18, 0.2), noise, **how)
    assert not found.concluded
    assert any(doubt in text for text in found.doubts)


def test_runs_that_diverged_are_a_doubt_and_no_part_of_the_range() -> None:
    x, laws = np.geomspace(1, 16, 5), {"ours": Law(20, 0.25), "rival": Law(18, 0.2)}
    both = {name: made(law, 0.01, len(name), x) for name, law in laws.items()}
    both["ours"].losses[-1] = math.nan
    found = fits(both, "power law", draws=50)
    assert found is not None
    compared = compare(found["ours"], found["rival"], both["ours"], both["rival"], ["3 runs diverged"])
    assert compared.doubts[:2] == ("3 runs diverged", "the points span a factor of 8, less than a decade")


def test_a_law_with_a_floor_that_fits_better_may_refute_one_without() -> None:
    """Equal exponents, other floors: without floors one looks steeper."""
    laws = {"ours": Law(1.0, 0.5, 0.05), "rival": Law(1.0, 0.5, 0.08)}
    both = {name: made(law, 0.002, len(name), np.geomspace(16, 256, 5)) for name, law in laws.items()}
    plain, floored = fits(both, "power law", draws=200), fits(both, "with a floor", draws=200)
    assert plain is not None
    assert floored is not None
    power, other = (compare(found["ours"], found["rival"], both["ours"], both["rival"]) for found in (plain, floored))
    assert power.faster.low is not None
    assert power.faster.low > 0
    assert bends(both["ours"], plain["ours"].law, floored["ours"].law)
    assert power.beside(other, "floors say something else").doubts[-1] == "floors say something else"
    assert power.beside(power, "never") is power
    straight = made(Law(1.0, 0.5), 0.01)
    assert not bends(straight, fit_power(straight), fit_floor(straight))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Measured(Found):
    """An axis of which losses are given."""

    losses: Mapping[str, Series] = field(default_factory=dict)

    @property
    def series(self) -> Mapping[str, Series]:  # type: ignore[override]
        return self.losses

    def _stopped(self, kinds: Sequence[str]) -> list[str]:
        return []


@pytest.mark.parametrize("alone", [True, False])
def test_what_the_smallest_point_says_alone_is_no_conclusion(alone: bool) -> None:
    """All points say that one law is steeper, or the smallest does, and the others say little."""
    x, rival = np.geomspace(16, 256, 5), Law(1.0, 0.4)
    ours = made(Law(1.0, 0.41 if alone else 0.5), 0.02, 1, x)
    if alone:
        ours.losses[0] *= 1.3
    losses = {"ebt": ours, TRANSFORMER: made(rival, 0.02, 2, x)}
    grid = SimpleNamespace(points=x.tolist(), axis="width")
    compared = Measured(None, grid, {}, losses).compared["power law"]["ebt"]  # type: ignore[arg-type]
    assert compared.faster.low is not None
    assert compared.faster.low > 0
    assert compared.concluded is not alone
    assert (LEAST_ALONE in compared.doubts) is alone


@settings(max_examples=15)
@given(st.floats(0.1, 1e9), exponents, st.floats(0.02, 0.5))
@example(1e5, 0.5, 0.3719826541747632)  # the crossing is a point of the search's own grid
def test_laws_cross_where_they_are_equal(x: float, exponent: float, more: float) -> None:
    rival, ours = Law(1.0, exponent), Law(x**more, exponent + more)
    assert crossing(ours, rival, (X[0], X[-1])) == pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize(("x", "where"), [(1e3, "below"), (1e5, "inside"), (1e8, "above")])
def test_a_crossing_says_where_it_lies(x: float, where: str) -> None:
    found = told(Law(x**0.1, 0.3), Law(1.0, 0.2)).crossing
    assert found.where == where
    assert found.low < x < found.high
    assert found.share == 1


def test_laws_that_do_not_cross() -> None:
    assert crossing(Law(2, 0.2), Law(1, 0.2), (1, 100)) is None
    assert crossing(Law(2, 0.2, 0.5), Law(1, 0.2, 0.5), (1, 100)) is None
    assert told(Law(2, 0.2), Law(1, 0.2), noise=0.0).crossing is None


def test_the_frontier_is_the_loss_of_the_size_that_is_best() -> None:
    """It is chosen by one loss, and the other is told, be it larger than that of another size."""
    small, large = [(1.0, 3.0, 3.5), (100.0, 2.0, 2.5)], [(10.0, 4.0, 0.1), (1000.0, 1.0, 1.5)]
    found = frontier([small, large], np.array([0.5, 1.0, 10.0, 100.0, 1000.0]))
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([3.5, 3.0, 2.5, 1.5])
    assert np.isnan(frontier([[], []], X)).all()
