"""Gradients taken while thinking are those of plain back-propagation, in every space, for every recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import SIMPLEX, SPACES, WIDTH, make_network, make_simplex, make_space, make_table, make_target, normal, seeded

from ebt.thinking import IGNORED, Energy, Recipe, StepSize, Supervised
from ebt.thinking.fast import adjoint

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.slow]

ROWS, PARTS = 3, 4
RECIPES: dict[str, dict[str, Any]] = {
    "detached": {"gradients": "detached"},
    "detached, last": {"gradients": "detached", "loss": "last"},
    "truncated": {"gradients": "truncated", "step_size_spread": 2.0, "clamp": 0.5},
    "truncated, last": {"gradients": "truncated", "loss": "last", "noise": 0.1, "step_size_spread": 2.0},  # S2
    "full": {"gradients": "full", "step_size_spread": 2.0},
    "full, last": {"gradients": "full", "loss": "last", "noise": 0.1},
    "ranked": {"gradients": "detached", "ranking": 0.7},
    "burned in": {"gradients": "truncated", "noise": 0.1, "burn_in": 3},
}


def plain(landscape: Energy) -> Energy:
    """The same landscape, which cannot be separated."""
    return lambda candidate, step: landscape(candidate, step)


class Trial:
    """A network with a context, a space, and everything that learns."""

    unseen = False

    def __init__(self, kind: str, name: str, **settings: Any) -> None:
        self.network, self.table, self.step_size = make_network(kind, "bilinear"), make_table(), StepSize(0.9)
        self.x = nn.Parameter(normal(ROWS, PARTS, WIDTH, seed=7))
        dims = 2 if kind == "decoder" else 1
        self.space = make_simplex(name, self.table, dims, **settings) if settings else make_space(name, self.table, dims)
        self.target = make_target(name, ROWS, PARTS)
        if name in SIMPLEX:
            self.target[0, :2] = IGNORED
        self.learning = [*self.network.parameters(), self.x, self.step_size.log_scale]
        self.learning += [] if name == "euclidean" else [self.table]

    def supervise(self, recipe: Recipe, steps: int, bind: Callable[[Energy], Energy]) -> Supervised:
        start = self.space.start((ROWS, PARTS), source=seeded(3))
        encoded: Any = self.network.encode(self.x * 1.5)  # not a leaf, as embeddings are not
        landscape = bind(encoded.unseen() if self.unseen else encoded)
        schedule = tuple(range(steps))
        return self.space.supervise(landscape, start, self.target, self.step_size, recipe, seeded(4), schedule)

    def compare(self, recipe: Recipe, steps: int) -> None:
        expected, found = (self.supervise(recipe, steps, bind) for bind in (plain, lambda landscape: landscape))
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.losses, expected.losses)
        for name in ("energies", "steps", "step_size", "state"):
            torch.testing.assert_close(getattr(found.thought, name), getattr(expected.thought, name).detach())
        gradients = [torch.autograd.grad(2 * each.loss, self.learning, allow_unused=True) for each in (expected, found)]
        for one, other in zip(*gradients, strict=True):
            other = torch.zeros_like(one) if other is None and one is not None else other
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, None])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", SPACES)
def test_every_recipe_in_every_space(name: str, recipe: str, rows: int | None) -> None:
    Trial("decoder", name).compare(Recipe(**RECIPES[recipe], rows_at_once=rows), 2)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["compact-mirror", "restart", "euclidean"])
def test_few_and_many_steps(name: str, recipe: str, steps: int) -> None:
    """More steps than graphs are kept: the first of them run again."""
    Trial("encoder", name).compare(Recipe(**RECIPES[recipe], rows_at_once=2), steps)


@pytest.mark.parametrize("recipe", ["detached", "truncated", "full"])
@pytest.mark.parametrize("name", ["compact-restart", "compact-mirror", "restart", "reference"])
def test_a_table_that_does_not_learn_from_views(name: str, recipe: str) -> None:
    Trial("decoder", name, input_gradient=False).compare(Recipe(**RECIPES[recipe], rows_at_once=2), 2)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["compact-restart", "compact-mirror", "restart", "euclidean"])
def test_candidates_that_the_network_does_not_see(name: str, recipe: str, kind: str) -> None:
    trial = Trial(kind, name)
    trial.unseen = True
    trial.compare(Recipe(**RECIPES[recipe], rows_at_once=2), 1)


def test_what_does_not_learn_gets_no_gradient() -> None:
    trial = Trial("decoder", "compact-restart")
    frozen = [trial.table, trial.network.head.projection.weight]
    for parameter in frozen:
        parameter.requires_grad_(False)
    trial.supervise(Recipe(), 2, lambda landscape: landscape).loss.backward()
    assert all(parameter.grad is None for parameter in frozen)
    assert trial.x.grad is not None


def test_nothing_is_kept_under_no_grad_and_gradients_are_handed_out_once() -> None:
    trial = Trial("decoder", "compact-restart")
    with torch.no_grad():
        assert not trial.supervise(Recipe(), 2, lambda landscape: landscape).loss.requires_grad
    loss = trial.supervise(Recipe(), 2, lambda landscape: landscape).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="handed out: compute the loss again"):
        loss.backward()


def test_graphs_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the tensors that autograd saves and has not freed: 12 steps need no more than 5."""
    trial, peaks = Trial("decoder", "compact-restart"), []

    for steps in (adjoint.SHORT + 1, 12):
        alive, peak = 0, 0

        class Saved:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal alive, peak
                self.tensor, alive = tensor, alive + tensor.numel()
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
            trial.supervise(Recipe(rows_at_once=1), steps, lambda landscape: landscape)
        peaks.append(peak)
    assert peaks[1] <= 1.02 * peaks[0]
