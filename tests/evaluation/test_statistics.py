"""Intervals, slopes and correlations on data whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ebt.evaluation.statistics import (
    Estimate,
    bootstrap,
    correlation,
    over_seeds,
    pearson,
    risk_coverage,
    slope,
    slope_over,
    spearman,
)


def test_students_interval() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert over_seeds([5.0]) == Estimate(5.0, None, None, 1)


def test_student_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = [(e := over_seeds(generator.normal(7, 2, 3).tolist())).low < 7 < e.high for _ in range(1000)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_texts_of_estimates() -> None:
    found = Estimate(1.0, 0.5, 1.5, 3)
    assert found.text(1) == "1.0 [0.5, 1.5]"
    assert found.text(1, sign=True) == "+1.0 [+0.5, +1.5]"
    assert found.around(2) == "1.00 ± 0.50"
    assert Estimate(1.0, None, None, 1).text(1) == Estimate(1.0, None, None, 1).around(1) == "1.0"


def test_bootstrap_of_a_mean_agrees_with_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap(lambda rows: float(values[rows].mean()), len(values))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert all(map(math.isnan, bootstrap(lambda rows: math.nan, 5)))


def test_slopes() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    assert slope(x, 5 - 2 * x) == pytest.approx(-2)
    assert math.isnan(slope(np.ones(4), x))
    sets = np.array([[0.0, 0.1], [1.0, 0.9], [2.0, 2.2], [4.0, 4.1]])
    exact = slope_over(sets, 3 * sets + 1)
    assert (exact.mean, exact.low, exact.high) == pytest.approx((3, 3, 3))
    noise = slope_over(sets, np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]))
    assert noise.low < 0 < noise.high
    assert slope_over(np.ones((3, 2)), sets[:3]).low is None


def test_the_slope_of_one_set_alone_is_not_trusted() -> None:
    """A single set that lies apart makes a slope; drawing sets anew shows how little it stands on."""
    x = np.array([[0.0], [0.1], [0.2], [5.0]]).repeat(3, 1)
    y = np.array([[0.0], [1.0], [-1.0], [1.5]]).repeat(3, 1)
    found = slope_over(x, y)
    assert found.mean > 0
    assert found.low < 0


def test_correlations() -> None:
    x = np.random.default_rng(2).normal(size=(50, 20))
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert pearson(x, np.exp(x)) < 0.9
    assert pearson(x, -2 * x + 1) == pytest.approx(-1)
    assert math.isnan(pearson(x, np.ones_like(x)))
    assert spearman(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.9486833)
    found = correlation(spearman, x, x + np.random.default_rng(3).normal(size=x.shape))
    assert found.low < found.mean < found.high
    assert (found.mean, found.count) == (pytest.approx(0.69, abs=0.05), 1000)
    assert correlation(pearson, x, np.ones_like(x)).low is None


def test_risk_against_coverage() -> None:
    wrong = torch.tensor([[False, False], [True, True]])
    knows = risk_coverage(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), wrong, points=4)
    assert knows.coverage == [0.25, 0.5, 0.75, 1.0]
    assert knows.risk == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert knows.area == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert risk_coverage(torch.tensor([[3.0, 2.0], [1.0, 0.0]]), wrong).area > 0.5
    tied = risk_coverage(torch.ones(2, 2), wrong)  # nothing is known: whatever is kept, half of it is wrong
    assert tied.area == pytest.approx(0.5)
    assert set(tied.risk) == {0.5}
