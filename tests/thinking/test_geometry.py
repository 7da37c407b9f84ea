from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import (
    COMPACT,
    SIMPLEX,
    SPACES,
    WIDTH,
    Space,
    Waves,
    direction_of,
    logits_of,
    make_simplex,
    make_space,
    make_table,
    next_of,
    normal,
    seeded,
    vectors,
    view_of,
)

from ebt.thinking import IGNORED, Change, Gradient, Projected, mean_loss

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS = 2, 3


def gradient_of(landscape: Waves, seen: Tensor) -> Tensor:
    seen = seen.detach().requires_grad_()
    return torch.autograd.grad(landscape(seen, 0).sum(), seen)[0]


def updated(
    name: str, state: Tensor, table: Tensor, landscape: Waves, alpha: Tensor | float, clamp: float = math.inf
) -> Tensor:
    """One update by the formulas."""
    gradient = gradient_of(landscape, view_of(name, state, table))
    return next_of(name, state, direction_of(name, state, table, gradient).clamp(-clamp, clamp), alpha).detach()


def test_noise_in_the_view_never_enters_the_state() -> None:
    """As the published video models have it: the gradient is taken at the disturbed view, the step at the state itself."""
    table, landscape = make_table(), Waves(ROWS, PARTS)
    space = Space(Projected(2, (len(table),), weight=table.T, bias=normal(WIDTH, seed=4), noise_in="view"), Gradient())
    state = space.start((ROWS, PARTS), source=seeded(3))
    thought = space.descend(landscape, state, 0.7, 2, noise=0.4, generator=seeded(11))
    generator = seeded(11)
    for i in range(2):
        view = state @ table + normal(WIDTH, seed=4)
        seen = view + 0.4 * torch.randn(view.shape, generator=generator)
        state = (state - 0.7 * gradient_of(landscape, seen) @ table.T).detach()
        torch.testing.assert_close(thought.states[i], state)


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 2**20), words=st.integers(2, 9), steps=st.integers(1, 3), alpha=st.floats(1e-3, 1e2))
def test_updates_follow_the_formulas(name: str, seed: int, words: int, steps: int, alpha: float) -> None:
    table = make_table(seed, words)
    space, landscape = make_space(name, table), Waves(ROWS, PARTS, seed=seed)
    state = space.start((ROWS, PARTS), source=seeded(seed))
    thought = space.descend(landscape, state, alpha, steps)
    for i in range(steps):
        energies = landscape(view_of(name, state, table), i)
        state = updated(name, state, table, landscape, alpha)
        torch.testing.assert_close(thought.states[i], state, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(thought.energies[i], energies.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SPACES)
def test_each_prediction_has_its_own_step_size(name: str) -> None:
    table, landscape = make_table(), Waves(ROWS, PARTS)
    space = make_space(name, table)
    start = space.start((ROWS, PARTS), source=seeded(3))
    alpha = torch.rand(ROWS, PARTS, generator=seeded(4)) + 0.5
    state = space.descend(landscape, start, alpha, 1).state
    for row in range(ROWS):
        for part in range(PARTS):
            expected = updated(name, start, table, landscape, alpha[row, part])[row, part]
            torch.testing.assert_close(state[row, part], expected)


@pytest.mark.parametrize("name", SPACES)
def test_the_clamp_bounds_the_direction(name: str) -> None:
    table, landscape = make_table(), Waves(ROWS, PARTS)
    space = make_space(name, table)
    start = space.start((ROWS, PARTS), source=seeded(3))
    state = space.descend(landscape, start, 2.0, 1, clamp=0.01).state
    torch.testing.assert_close(state, updated(name, start, table, landscape, 2.0, clamp=0.01))
    assert not torch.allclose(state, updated(name, start, table, landscape, 2.0))


@pytest.mark.parametrize("std", [0.3, torch.tensor([[0.3, 0.0, 1.0], [0.0, 0.2, 0.1]]), torch.tensor([0.0, 0.5])])
@pytest.mark.parametrize("name", SPACES)
def test_noise_comes_from_the_generator_before_each_step(name: str, std: float | Tensor) -> None:
    """One standard deviation for all, one per prediction, or one per row."""
    table, landscape = make_table(), Waves(ROWS, PARTS)
    space = make_space(name, table)
    state = space.start((ROWS, PARTS), source=seeded(3))
    thought = space.descend(landscape, state, 0.7, 3, noise=std, generator=seeded(11))
    generator = seeded(11)
    for i in range(3):
        each = std.double().reshape(*std.shape, *[1] * (3 - std.dim())) if isinstance(std, Tensor) else std
        state = state + each * torch.randn(state.shape, generator=generator)
        state = updated(name, state, table, landscape, 0.7)
        torch.testing.assert_close(thought.states[i], state)


@pytest.mark.parametrize("backend", ["plain", "auto"])
@pytest.mark.parametrize("stop", [None, Change(1e-3)])
@pytest.mark.parametrize("name", SPACES)
def test_noise_of_the_first_steps_is_followed_by_a_descent_without(name: str, stop: Change | None, backend: str) -> None:
    landscape, space = Waves(ROWS, PARTS), make_space(name, make_table())
    start, how = space.start((ROWS, PARTS), source=seeded(3)), {"stop": stop, "backend": backend}
    whole = space.descend(landscape, start, 0.7, 6, noise=0.3, noise_steps=2, generator=seeded(11), **how)
    noisy = space.descend(landscape, start, 0.7, 2, noise=0.3, generator=seeded(11), **how)
    assert all(map(torch.equal, whole.states[:2], noisy.states))
    if stop is None:
        rest = space.descend(landscape, noisy.state, 0.7, 4, first=2)
        assert all(map(torch.equal, whole.states[2:], rest.states))
        continued = space.descend(landscape, start, 0.7, 3, noise=0.3, noise_steps=2, first=2, generator=seeded(11))
        assert torch.equal(continued.state, space.descend(landscape, start, 0.7, 3, first=2).state)
    assert not torch.equal(noisy.state, space.descend(landscape, start, 0.7, 2).state)


@pytest.mark.parametrize("name", SPACES)
def test_starts_have_the_asked_spread_and_follow_the_generator(name: str) -> None:
    table = make_table(words=50)
    space = make_space(name, table)
    start = space.start((100, 20), std=3.0, source=seeded(0))
    assert torch.equal(start, space.start((100, 20), std=3.0, source=seeded(0)))
    assert start.shape == (100, 20, WIDTH if name in (*COMPACT, "euclidean") else 50)
    # the logits' standard deviation, on a vocabulary; their root mean square over the words where words differ in length
    assert logits_of(name, start, table).square().mean().sqrt().item() == pytest.approx(3.0, rel=0.05)
    assert not start.requires_grad


@pytest.mark.parametrize("name", SIMPLEX)
def test_cross_entropy_ignores_marked_parts(name: str) -> None:
    table = make_table()
    space = make_simplex(name, table)
    state = space.start((ROWS, PARTS), source=seeded(3))
    target = torch.tensor([[0, 6, IGNORED], [3, IGNORED, 2]])
    log_p = logits_of(name, state, table).log_softmax(-1).detach()
    expected = [[-log_p[0, 0, 0], -log_p[0, 1, 6], 0.0], [-log_p[1, 0, 3], 0.0, -log_p[1, 2, 2]]]
    torch.testing.assert_close(space.loss(state, target).detach(), torch.tensor(expected))
    assert mean_loss(space.geometry, state, target).item() == pytest.approx(torch.tensor(expected).sum().item() / 4)
    assert mean_loss(space.geometry, state, torch.full((ROWS, PARTS), IGNORED)).item() == 0


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_euclidean_loss_is_smooth_l1_per_part(beta: float) -> None:
    space = vectors(1, (2, 3), beta=beta)
    state, target = normal(4, 2, 3, seed=1), normal(4, 2, 3, seed=2)
    gap = (state - target).abs()
    expected = torch.where(gap < beta, gap.square() / (2 * beta), gap - beta / 2)
    torch.testing.assert_close(space.loss(state, target), expected.mean((1, 2)))
    assert mean_loss(space.geometry, state, target).item() == pytest.approx(expected.mean().item())
    numbers = vectors(1, ())
    assert numbers.loss(state[:, 0, 0], target[:, 0, 0]).shape == (4,)


@pytest.mark.parametrize("name", SIMPLEX)
def test_change_is_the_largest_total_variation_of_a_prediction(name: str) -> None:
    table = make_table()
    tokens, boards = make_simplex(name, table, 2), make_simplex(name, table, 1)
    before, after = (tokens.start((ROWS, PARTS), source=seeded(i)) for i in (1, 2))
    p, q = (logits_of(name, state, table).softmax(-1) for state in (before, after))
    expected = (p - q).clamp(min=0).sum(-1)  # total variation: the mass that has moved
    torch.testing.assert_close(tokens.change(before, after), expected)
    torch.testing.assert_close(boards.change(before, after), expected.amax(1))
    assert torch.equal(tokens.decide(before), p.argmax(-1))


def test_euclidean_change_is_the_root_mean_square_of_a_prediction() -> None:
    before, after = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    difference = after - before
    torch.testing.assert_close(vectors(2, (4,)).change(before, after), difference.square().mean(2).sqrt())
    torch.testing.assert_close(vectors(1, (4,)).change(before, after), difference.square().mean((1, 2)).sqrt())
    torch.testing.assert_close(vectors(1, ()).change(before[:, 0, 0], after[:, 0, 0]), difference[:, 0, 0].abs())


def test_energies_are_summed_over_the_parts_of_a_prediction() -> None:
    parts = normal(2, 3)
    assert torch.equal(vectors(2, (4,)).per_prediction(parts), parts)
    assert torch.equal(vectors(1, (4,)).per_prediction(parts), parts.sum(1))


def test_vectors_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="Euclidean has no discrete answers"):
        vectors(2, (4,)).decide(normal(2, 3, 4))


@pytest.mark.parametrize("per_prediction", [False, True])
@pytest.mark.parametrize("name", ["restart", "compact-restart", "reference"])
def test_forms_that_forget_their_logits_come_to_rest_where_their_objective_is_stationary(
    name: str, per_prediction: bool
) -> None:
    table, landscape = make_table(), Waves(ROWS, PARTS)
    space = make_space(name, table)
    alpha = torch.rand(ROWS, PARTS, generator=seeded(4)) + 0.5 if per_prediction else torch.tensor(0.8)
    thought = space.descend(landscape, space.start((ROWS, PARTS), source=seeded(3)), alpha, 200)
    logits = logits_of(name, thought.state, table).detach().requires_grad_()
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    energies = landscape(p @ table, 0)
    potential = entropy + p.square().sum(-1) / 2 if name == "reference" else entropy
    (slope,) = torch.autograd.grad((energies - potential / alpha).sum(), logits)
    assert slope.abs().max() < 1e-12
    (energy_slope,) = torch.autograd.grad(landscape(logits.softmax(-1) @ table, 0).sum(), logits)
    assert energy_slope.abs().max() > 1e-3  # the energy alone is not stationary
    found = space.objective(energies, thought.state, thought.step_size)
    torch.testing.assert_close(found, energies - potential / alpha)


@pytest.mark.parametrize("per_prediction", [False, True])
def test_vectors_that_forget_their_start_come_to_rest_where_their_objective_is_stationary(per_prediction: bool) -> None:
    table, landscape = make_table(), Waves(ROWS, PARTS)
    space = make_space("restart-projected", table)
    alpha = (torch.rand(ROWS, PARTS, generator=seeded(4)) + 1) / 10 if per_prediction else torch.tensor(0.15)
    thought = space.descend(landscape, space.start((ROWS, PARTS), source=seeded(3)), alpha, 200)
    state = thought.state.detach().requires_grad_()
    energies = landscape(space.view(state), 0)
    (slope,) = torch.autograd.grad(space.objective(energies, state, thought.step_size).sum(), state, retain_graph=True)
    assert slope.abs().max() < 1e-12
    (energy_slope,) = torch.autograd.grad(energies.sum(), state)
    assert energy_slope.abs().max() > 1e-3  # the energy alone is not stationary


@pytest.mark.parametrize("name", ["listing", "mirror", "compact-mirror", "euclidean", "projected"])
def test_other_spaces_descend_the_energy_itself(name: str) -> None:
    space = make_space(name, make_table())
    energies = normal(ROWS, PARTS)
    assert torch.equal(space.objective(energies, space.start((ROWS, PARTS)), 2.0), energies)


@pytest.mark.parametrize("name", SIMPLEX)
def test_views_teach_the_table_where_they_may(name: str) -> None:
    for learns in (True, False):
        geometry = make_simplex(name, make_table(), input_gradient=learns).geometry
        assert geometry.view(geometry.start((ROWS, PARTS), source=seeded(3)).detach()).requires_grad == learns
