"""Stopping: a prediction that changes by less than the tolerance in one step has converged and moves no more."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toys import SPACES, WIDTH, Bowl, Space, Waves, make_network, make_space, make_table, normal, seeded, vectors

from ebt.thinking import Change, Energy

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS, CAP = 4, 3, 12


def hidden(landscape: Energy) -> Energy:
    """The landscape without its ``select``."""
    return lambda candidate, step: landscape(candidate, step)


def expected_steps(space: Space, start: Tensor, states: tuple[Tensor, ...], tolerance: float) -> Tensor:
    """From a run without a tolerance: the first step that changes a prediction by less."""
    path = [start, *states]
    still = torch.stack([space.change(*pair) < tolerance for pair in pairwise(path)])
    still[-1] = True
    return still.int().argmax(0) + 1


@pytest.mark.parametrize("select", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8)
@given(tolerance=st.sampled_from([1e-12, 1e-3, 0.03, 0.1, 0.9]), seed=st.integers(0, 99), alphas=st.booleans())
def test_converged_predictions_stay_where_they_are(
    name: str, dims: int, select: bool, tolerance: float, seed: int, alphas: bool
) -> None:
    space = make_space(name, make_table(), dims)
    curvature = 2 * torch.rand(ROWS, 1 if dims == 1 else PARTS, generator=seeded(seed))
    landscape: Energy = Bowl(normal(ROWS, PARTS, WIDTH, seed=seed + 100), curvature.expand(ROWS, PARTS))
    landscape = landscape if select else hidden(landscape)
    start = space.start((ROWS, PARTS), source=seeded(seed))
    alpha = torch.rand((ROWS, PARTS)[:dims], generator=seeded(seed)) if alphas else torch.tensor(0.5)
    plain = space.descend(landscape, start, alpha, CAP)
    thought = space.descend(landscape, start, alpha, CAP, stop=Change(tolerance), final_energy=True)
    assert torch.equal(thought.steps, expected_steps(space, start, plain.states, tolerance))
    assert len(thought.states) == thought.steps.max()
    counts, known = thought.steps.view(ROWS, -1).expand(ROWS, PARTS), torch.stack(plain.states)
    for i, state in enumerate(thought.states):
        last = (counts.clamp(max=i + 1) - 1).view(1, ROWS, PARTS, 1).expand(1, *state.shape)
        torch.testing.assert_close(state, known.gather(0, last)[0])
    moved = torch.arange(len(thought.states)).view(-1, 1, 1) < counts
    torch.testing.assert_close(thought.energies[:-1][moved], plain.energies[: len(moved)][moved])
    torch.testing.assert_close(thought.energies[-1], landscape(space.view(thought.state), 0).detach())


@pytest.mark.parametrize("variant", ["plain", "candidate", "prefix"])
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_dropping_rows_changes_no_result_of_a_network(kind: str, variant: str) -> None:
    network, candidates = make_network(kind, variant, head_std=0.05), 3
    space = make_space("compact-restart", make_table(), 2 if kind == "decoder" else 1)
    start = space.start((candidates * ROWS, PARTS), std=3.0, source=seeded(0))
    landscape = network.encode(normal(ROWS, PARTS, WIDTH, seed=1))
    with_select, without = (
        space.descend(bound, start, 0.4, 30, stop=Change(1e-5), final_energy=True) for bound in (landscape, hidden(landscape))
    )
    assert torch.equal(with_select.steps, without.steps)
    assert with_select.steps.unique().numel() > 1
    for a, b in zip(with_select.states, without.states, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(with_select.energies[-1], without.energies[-1])
    assert with_select.evaluations.forward < without.evaluations.forward


def counted(landscape: Energy) -> tuple[Callable[[Tensor, int], Tensor], list[int]]:
    calls: list[int] = []

    def count(candidate: Tensor, step: int) -> Tensor:
        calls.append(candidate.shape[:-1].numel())
        return landscape(candidate, step)

    return count, calls


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("tolerance", [None, 0.05])
@pytest.mark.parametrize("select", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
def test_only_what_still_moves_is_evaluated_and_counted(dims: int, select: bool, tolerance: float | None, final: bool) -> None:
    curvature = torch.linspace(0.1, 1.9, ROWS * PARTS).view(ROWS, PARTS)
    bowl = Bowl(normal(ROWS, PARTS, WIDTH, seed=1), curvature if dims == 2 else curvature[:, :1].expand(ROWS, PARTS))
    landscape, calls = (bowl, bowl.calls) if select else counted(bowl)
    space = vectors(dims, (WIDTH,))
    start, every = space.start((ROWS, PARTS), source=seeded(0)), ROWS * PARTS
    thought = space.descend(
        landscape, start, 1.0, CAP, stop=None if tolerance is None else Change(tolerance), final_energy=final
    )
    assert thought.evaluations.forward == pytest.approx(sum(calls) / every)
    assert thought.evaluations.backward == pytest.approx((sum(calls) - every * final) / every)
    assert thought.evaluations.total == thought.evaluations.forward + thought.evaluations.backward
    if tolerance is None:
        assert calls == [every] * (CAP + final)
    elif select:
        assert thought.evaluations.backward == pytest.approx(thought.steps.double().mean().item())
        moving = [int((thought.steps > i).sum()) * every // thought.steps.numel() for i in range(int(thought.steps.max()))]
        assert calls == moving + [every] * final
        assert min(moving) < every


def test_zero_tolerance_and_no_tolerance_run_to_the_end() -> None:
    space, landscape = make_space("restart", make_table()), Waves(ROWS, PARTS)
    start = space.start((ROWS, PARTS))
    for tolerance in (0.0, None):
        assert (space.descend(landscape, start, 1.0, 5, stop=None if tolerance is None else Change(tolerance)).steps == 5).all()


def test_noise_still_follows_the_generator_while_rows_drop_out() -> None:
    curvature = torch.tensor([0.1, 0.5, 1.0, 1.9]).unsqueeze(1).expand(ROWS, PARTS)
    bowl, space = Bowl(normal(ROWS, PARTS, WIDTH, seed=1), curvature), vectors(1, (WIDTH,))
    start = space.start((ROWS, PARTS), source=seeded(0))
    first, second = (
        space.descend(bound, start, 0.5, 40, noise=0.05, stop=Change(0.07), generator=seeded(1))
        for bound in (bowl, hidden(bowl))
    )
    assert torch.equal(first.state, second.state)
    assert first.steps.unique().numel() > 1
