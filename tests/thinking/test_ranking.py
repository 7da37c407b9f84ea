"""The ranking loss: its formula, what it ignores, what it teaches an energy, and what it leaves as it was."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import ebt
from ebt.evaluation.statistics import auroc
from ebt.thinking import Euclidean, Simplex
from ebt.thinking.ranking import ranking_loss

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SEEDS, st.integers(2, 9))
def test_two_parts_are_the_logistic_loss_of_their_difference(seed: int, gap: int) -> None:
    energies = torch.tensor([[0.0], [float(gap)]]).double()
    expected = math.log1p(math.exp(-4))  # two parts lie two standard deviations apart
    right = ranking_loss(energies, torch.tensor([[0.0], [1.0]]).double(), generator=seeded(seed))
    wrong = ranking_loss(energies, torch.tensor([[1.0], [0.0]]).double(), generator=seeded(seed))
    met = right > 0  # a part may draw itself four times
    assert not met or right.item() == pytest.approx(expected)
    assert not met or wrong.item() == pytest.approx(expected + 4)


@given(SEEDS, st.floats(1, 100), st.floats(-100, 100))
def test_scale_and_offset_of_energies_do_not_count(seed: int, scale: float, offset: float) -> None:
    energies, mistakes = torch.randn(2, 6, 5, generator=seeded(seed)).double()
    energies = 2 * energies / energies.std()
    found = ranking_loss(energies, mistakes, generator=seeded(1))
    torch.testing.assert_close(ranking_loss(scale * energies + offset, mistakes, generator=seeded(1)), found)


@given(SEEDS)
def test_the_gradient_raises_energies_of_mistakes(seed: int) -> None:
    energies = torch.randn(8, 5, generator=seeded(seed)).double().requires_grad_()
    mistakes = (torch.rand(8, 5, generator=seeded(seed + 1)) < 0.5).double()
    ranking_loss(energies, mistakes, generator=seeded(2)).backward()
    assert energies.grad is not None
    assert (energies.grad[mistakes == 1] <= 0).all()
    assert (energies.grad[mistakes == 0] >= 0).all()


@given(SEEDS)
def test_parts_that_do_not_count_are_not_compared(seed: int) -> None:
    energies, mistakes = torch.randn(2, 6, 4, generator=seeded(seed)).double()
    scored = torch.rand(6, 4, generator=seeded(seed + 1)) < 0.6
    other, wrong = (torch.where(scored, values, 1e3 * torch.randn(6, 4)) for values in (energies, mistakes))
    found = ranking_loss(energies, mistakes, scored, seeded(3))
    torch.testing.assert_close(ranking_loss(other, wrong, scored, seeded(3)), found)


@pytest.mark.parametrize("energies", [torch.randn(7), torch.zeros(7), torch.tensor([3.0])])
def test_equal_mistakes_or_energies_cost_nothing_infinite(energies: Tensor) -> None:
    energies = energies.double().requires_grad_()
    loss = ranking_loss(energies, torch.ones_like(energies))
    loss.backward()
    assert loss.item() == 0
    assert energies.grad is not None
    assert torch.isfinite(energies.grad).all()


def test_a_flat_landscape_gets_a_gradient_of_ordinary_size() -> None:
    """The head of a fresh model is zero, so all its energies are."""
    energies = torch.zeros(100).double().requires_grad_()
    loss = ranking_loss(energies, (torch.arange(100) % 2).double(), generator=seeded())
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert energies.grad is not None
    assert energies.grad.abs().sum() == pytest.approx(2)


class Guess(nn.Module):
    """An energy whose slope is right for some contexts only, and an offset that the descent does not feel."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.words, self.offset = x, nn.Parameter(0.1 * torch.randn(4, 3, generator=seeded(5))), nn.Linear(4, 1)
        nn.init.zeros_(self.offset.weight)

    def forward(self, view: Tensor) -> Tensor:
        return -(view * (self.x @ self.words)).sum(-1) + self.offset(self.x).squeeze(-1)


@pytest.mark.parametrize("ranking", [0.0, 1.0])
def test_energies_learn_where_the_answers_are_wrong(ranking: float) -> None:
    """Of six contexts, those with a last feature have random answers. Only the offset can tell, and only with the loss."""
    generator = seeded(6)
    x = torch.cat(
        (torch.eye(3)[torch.randint(3, (600,), generator=generator)], torch.rand(600, 1, generator=generator).round()), 1
    )
    target = torch.where(x[:, 3] > 0, torch.randint(3, (600,), generator=generator), x[:, :3].argmax(-1))
    energy, table = Guess(x), torch.eye(3)
    optimiser = torch.optim.Adam(energy.parameters(), lr=0.05)
    recipe, geometry = ebt.Recipe.s1(1, ranking=ranking), Simplex(1, table)
    before = energy.offset.weight.detach().clone()
    for _ in range(60):
        optimiser.zero_grad()
        found = ebt.loss(energy, target, recipe, geometry=geometry, update=ebt.Restart(), generator=generator)
        found.backward()
        optimiser.step()
    thought = ebt.descend(
        energy, geometry.start((600,), source=generator), steps=1, step_size=1.0, geometry=geometry, update=ebt.Restart()
    )
    wrong = geometry.decide(thought.state) != target
    found = auroc(thought.energies[-1], wrong)
    assert (found > 0.8) == (ranking > 0), found
    assert torch.equal(energy.offset.weight, before) == (ranking == 0)


def test_the_other_gradients_stay() -> None:
    """The ranking loss adds its own gradient to the energy, none to the step size or the states."""
    weights = torch.randn(3, 3, generator=seeded(1)).requires_grad_()
    target, size = torch.randn(5, 3, generator=seeded(2)), ebt.StepSize(0.3)

    def energy(y: Tensor) -> Tensor:
        return ((y @ weights) ** 2).sum(-1)

    gradients = []
    for ranking in (0.0, 0.5):
        recipe = ebt.Recipe(2, 2, ranking=ranking)
        found = ebt.loss(
            energy, target, recipe, step_size=size, start=torch.randn(5, 3, generator=seeded(4)), generator=seeded(3)
        )
        gradients.append(torch.autograd.grad(found, [weights, size.log_scale]))
    assert not torch.allclose(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1])


def test_vectors_are_ranked_by_their_loss() -> None:
    geometry = Euclidean(1, (3,))
    state, target = torch.randn(2, 4, 3, generator=seeded(1))
    torch.testing.assert_close(geometry.mistakes(state, target), geometry.loss(state, target))
