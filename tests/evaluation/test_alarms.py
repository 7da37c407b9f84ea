"""Alarms, and errors instead of silent nonsense."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys import SPACES, WIDTH, Bowl, make_simplex, make_space, make_table, normal, seeded, vectors

from ebt.evaluation.alarms import alarms
from ebt.thinking import Gradients, NonFiniteError

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS = 2, 3


@pytest.mark.parametrize("gradients", ["none", "detached", "truncated", "full"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_energy_that_is_not_finite_is_named_with_its_step(value: float, gradients: Gradients) -> None:
    def landscape(candidate: Tensor, step: int) -> Tensor:
        return candidate.sum(-1) + (value if step == 1 else 0.0)

    space = vectors(2, (WIDTH,))
    with pytest.raises(NonFiniteError, match="energy at thinking step 2 is not finite"):
        space.descend(landscape, space.start((ROWS, PARTS)), 1.0, 3, gradients=gradients)


def test_a_gradient_that_is_not_finite_is_named_with_its_step() -> None:
    def landscape(candidate: Tensor, step: int) -> Tensor:
        return (candidate * (0 if step == 2 else 1)).square().sum(-1).sqrt()  # the slope of a root at 0

    space = vectors(2, (WIDTH,))
    with pytest.raises(NonFiniteError, match="gradient of the energy at thinking step 3 is not finite"):
        space.descend(landscape, space.start((ROWS, PARTS)), 1.0, 3)


def test_a_candidate_that_is_not_finite_is_named_with_its_step() -> None:
    space = vectors(2, (WIDTH,))
    with pytest.raises(NonFiniteError, match="candidate at thinking step 1 is not finite"):
        space.descend(Bowl(normal(ROWS, PARTS, WIDTH)), space.start((ROWS, PARTS)), math.inf, 1)


def test_a_final_energy_that_is_not_finite_is_named() -> None:
    calls: list[int] = []

    def landscape(candidate: Tensor, step: int) -> Tensor:
        calls.append(step)
        return candidate.sum(-1) * (math.nan if len(calls) == 3 else 1.0)

    space = vectors(2, (WIDTH,))
    with pytest.raises(NonFiniteError, match="energy at thinking step 3"):
        space.descend(landscape, space.start((ROWS, PARTS)), 1.0, 2, final_energy=True)


@pytest.mark.parametrize("name", [name for name in SPACES if name != "reference"])  # its p moves without a gradient
def test_a_landscape_that_ignores_its_candidate_raises_an_alarm(name: str) -> None:
    space = make_space(name, make_table())
    thought = space.descend(lambda candidate, step: 0 * candidate.sum(-1), space.start((ROWS, PARTS)), 1.0, 3)
    (alarm,) = alarms(thought)
    assert alarm.startswith("thinking changes nothing: from step 1 to step 3")


@pytest.mark.parametrize("dims", [1, 2])
def test_rising_energies_raise_an_alarm(dims: int) -> None:
    space = vectors(dims, (WIDTH,))
    start, bowl = space.start((ROWS, PARTS), source=seeded(1)), Bowl(normal(ROWS, PARTS, WIDTH))
    (alarm,) = alarms(space.descend(bowl, start, 2.5, 4))
    assert alarm.startswith("energies rise while thinking")
    assert "lower it" in alarm


@pytest.mark.parametrize("alphas", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", SPACES)
def test_a_healthy_descent_is_silent(name: str, dims: int, alphas: bool) -> None:
    space = make_space(name, make_table(), dims)
    start, bowl = space.start((ROWS, PARTS), source=seeded(1)), Bowl(normal(ROWS, PARTS, WIDTH), 0.3)
    alpha = 0.5 + torch.rand((ROWS, PARTS)[:dims], generator=seeded(2)) if alphas else torch.tensor(0.5)
    alpha = alpha / 3 if name == "restart-projected" else alpha  # it comes to rest where alpha times the curvature is below 1
    assert alarms(space.descend(bowl, start, alpha, 5, final_energy=True)) == []


def test_restart_forms_are_judged_by_what_they_descend() -> None:
    """Energies may rise while the sum of energy and entropy term falls; that is health."""
    space = make_simplex("compact-restart", make_table())
    start = space.start((ROWS, PARTS), std=10.0, source=seeded(1))
    bowl = Bowl(normal(ROWS, PARTS, WIDTH), 0.3)
    thought = space.descend(bowl, start, 1.0, 5, final_energy=True)
    assert thought.energies[-1].mean() > thought.energies[1].mean()
    assert alarms(thought) == []


@pytest.mark.parametrize(("after", "rises"), [([1.0, 2.0, 3.0], True), ([3.0, 4.0, 2.0], False)])
def test_energies_are_judged_from_the_first_step_on(after: list[float], rises: bool) -> None:
    """The start is noise: to have fallen from its energy is no merit."""
    space = vectors(2, (WIDTH,))
    thought = space.descend(Bowl(normal(ROWS, PARTS, WIDTH)), space.start((ROWS, PARTS)), 0.5, 3, final_energy=True)
    energies = torch.tensor([5.0, *after])[:, None, None].expand(4, ROWS, PARTS)
    assert bool(alarms(replace(thought, energies=energies))) == rises


def test_short_records_say_nothing() -> None:
    space = vectors(2, (WIDTH,))
    start, bowl = space.start((ROWS, PARTS)), Bowl(normal(ROWS, PARTS, WIDTH))
    assert alarms(space.descend(bowl, start, 2.5, 1, final_energy=True)) == []
    assert alarms(space.descend(bowl, start, 2.5, 4, keep_path=False)) == []
