"""Pieces of one's own, trained and verified through the Python API; recipes in a plain PyTorch loop; what a record shows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import WIDTH, Bowl, normal, seeded

import ebt
from ebt.thinking import Step, draw_normal

ROWS = 16


@dataclass(frozen=True, eq=False)
class Sphere(ebt.Euclidean):
    """Unit vectors."""

    def start(self, parts: tuple[int, ...], std: float = 1.0, source: Any = None) -> Tensor:
        return F.normalize(draw_normal((*parts, *self.shape), torch.empty(0), source), dim=-1)

    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient - (gradient * state).sum(-1, keepdim=True) * state


class Turn(ebt.Update):
    """``y' = n(y - alpha g)`` with ``n(v) = v / |v|``."""

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Any) -> tuple[Tensor, Any]:
        return F.normalize(state - alpha * direction, dim=-1), memory


class Aligned:
    """Stops what turns by less than a degree."""

    def __call__(self, step: Step, /) -> Tensor:
        return (step.before * step.after).sum(-1) > 0.99985


class Needle(nn.Module):
    """``E(x, y) = -y . A x``."""

    def __init__(self) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.zeros(3, 3))

    def energy(self, x: Tensor) -> Any:
        return lambda y: -(y * (x @ self.A.T)).sum(-1)


def test_geometry_update_and_stop_of_ones_own_are_trained_and_verified() -> None:
    needle, sphere = Needle(), Sphere(1, (3,))
    turned = torch.linalg.qr(normal(3, 3, seed=4))[0]
    optimiser = torch.optim.Adam(needle.parameters(), lr=0.1)
    for update in range(40):
        x = F.normalize(normal(ROWS, 3, seed=update), dim=-1)
        how = {"step_size": 0.5, "geometry": sphere, "update": Turn(), "generator": seeded(update)}
        optimiser.zero_grad()
        ebt.loss(needle.energy(x), x @ turned.T, ebt.Recipe(step_size_spread=2.0, noise=0.01), **how).backward()
        optimiser.step()
    x = F.normalize(normal(5, 3, seed=999), dim=-1)
    start = sphere.start((4 * 5,), source=seeded(0))
    settings: dict[str, Any] = {"geometry": sphere, "update": Turn(), "stop": Aligned()}
    thought = ebt.descend(needle.energy(x.repeat(4, 1)), start, steps=40, step_size=0.1, **settings)
    best = ebt.choose(thought, 4)
    assert best.winner is not None
    assert best.winner.shape == (5,)
    assert thought.steps.max() < 40
    assert ((best.state * (x @ turned.T)).sum(-1) > 0.9).all()
    torch.testing.assert_close(thought.state.norm(dim=-1), torch.ones(20))


class Guess(nn.Module):
    """``E(x, y) = |y - A x|^2 / 2``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.zeros_(self.linear.weight)

    def energy(self, x: Tensor) -> Any:
        return lambda y: (y - self.linear(x)).square().sum(-1) / 2


NO_BUFFER = {"replay_size": 0, "replay_fraction": 0.0}


@pytest.mark.parametrize("recipe", [ebt.Recipe.s1(), ebt.Recipe.s2(**NO_BUFFER), ebt.Recipe.s1(3, clamp=2.0)])
def test_a_plain_loop_learns_by_the_papers_recipes(recipe: ebt.Recipe) -> None:
    guess, step_size, losses, map_ = Guess(), ebt.StepSize(0.5), list[float](), normal(WIDTH, WIDTH, seed=7) / WIDTH**0.5
    optimiser = torch.optim.Adam([*guess.parameters(), *step_size.parameters()], lr=0.05)
    for update in range(40):
        x = normal(ROWS, WIDTH, seed=update)
        outcome = ebt.loss(guess.energy(x), x @ map_.T, recipe, step_size=step_size, generator=seeded(update))
        optimiser.zero_grad()
        outcome.backward()
        optimiser.step()
        losses.append(outcome.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert step_size().item() != pytest.approx(0.5)


@pytest.mark.parametrize(
    ("recipe", "start", "named"),
    [
        (ebt.Recipe.s2(), False, "recipe.replay_size is 1000.*ReplayBuffer as start"),
        (ebt.Recipe.s2(), True, None),
        (ebt.Recipe.warm(), False, "recipe.warm_start is 0.5.*set it to 0"),
        (ebt.Recipe.s2(**NO_BUFFER), False, None),
        (ebt.Recipe.s1(1, rows_at_once=1), False, "recipe.rows_at_once is 1.*set it to null"),
    ],
)
def test_what_a_loop_of_ones_own_must_do_itself_is_told_once(recipe: ebt.Recipe, start: bool, named: str | None) -> None:
    target = normal(2, WIDTH)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            ebt.loss(lambda y: y.square().sum(-1), target, recipe, start=normal(2, WIDTH, seed=1) if start else None)
    assert [each.category for each in told] == ([] if named is None else [UserWarning])
    if named is not None:
        with pytest.warns(UserWarning, match=named):
            ebt.loss(lambda y: y.square().sum(-1), target, recipe)


def test_words_need_a_geometry() -> None:
    with pytest.raises(ValueError, match=r"target has dtype torch.int64.*geometry"):
        ebt.loss(lambda y: y.square().sum(-1), torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"start": normal(1, WIDTH)}, rf"start has shape \(1, {WIDTH}\), but the target needs \(2, {WIDTH}\)"),
        ({"start": normal(2, WIDTH - 1)}, rf"start has shape \(2, {WIDTH - 1}\)"),
        ({"step_size": -0.1}, "step_size is -0.1"),
        *(
            (
                {"target": torch.tensor([0, 5, wrong]), "geometry": ebt.Simplex(1, normal(6, WIDTH))},
                f"target has the index {wrong}",
            )
            for wrong in (-1, 6)
        ),
        ({"target": torch.zeros(2), "geometry": ebt.Simplex(1, normal(6, WIDTH))}, "target has dtype torch.float32"),
        ({"target": torch.tensor([0, -100]), "geometry": ebt.Simplex(1, normal(6, WIDTH)), "start": normal(2, 5)}, r"\(2, 6\)"),
    ],
)
def test_what_does_not_fit_the_target_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ebt.loss(**{"energy": lambda y: y.square().sum(-1), "target": normal(2, WIDTH), **given})


def test_a_record_shows_what_the_docstring_says() -> None:
    """8 candidates of 4 predictions in R^2, 16 steps."""
    bowl, start = Bowl(normal(8, 4, 2), torch.rand(8, 4, generator=seeded(1)) + 0.1), normal(8, 4, 2, seed=2)
    out = ebt.descend(bowl, start, steps=16, step_size=0.1)
    assert (out.best.shape, out.energy.shape, out.path.shape) == ((4, 2), (17, 4), (17, 8, 4, 2))
    lowest = out.energies[-1].argmin(0)
    for part in range(4):
        assert torch.equal(out.best[part], out.state[lowest[part], part])
        assert torch.equal(out.energy[:, part], out.energies[:, lowest[part], part])
    assert torch.equal(out.path[0], start)
    assert torch.equal(out.path[-1], out.state)
    assert torch.equal(out.answer, out.best)
    assert replace(out, shown="words").answer == "words"
    assert repr(out) == f"Thought(states (8, 4, 2), 16 steps, 17 + 16 passes, mean energy {out.energies[-1].mean().item():.4g})"
    chosen = ebt.choose(out, 4)  # 4 candidates of 2 contexts
    assert (chosen.best.shape, chosen.energy.shape, chosen.path.shape) == ((2, 4, 2), (17, 2, 4), (17, 2, 4, 2))
    assert chosen.candidates is out
