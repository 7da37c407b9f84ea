"""Gradients through thinking against finite differences of plain loops over the formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from toys import (
    NETWORKS,
    SPACES,
    WIDTH,
    Space,
    Waves,
    assert_slopes,
    conditioning,
    direction_of,
    loss_of,
    make_network,
    make_space,
    make_table,
    make_target,
    next_of,
    normal,
    seeded,
    view_of,
)

from ebt.thinking import Energy, Momentum, Recipe, StepSize

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.slow]

ROWS, PARTS, STEPS = 2, 3, 3


@dataclass
class Case:
    """A landscape with its parameters, a space and what a batch needs."""

    name: str
    bind: Callable[[], Energy]
    weights: nn.Module
    prediction_dims: int = 2
    table: nn.Parameter = field(default_factory=make_table)
    step_size: StepSize = field(default_factory=lambda: StepSize(0.9))
    momentum: Momentum | None = None

    def __post_init__(self) -> None:
        self.space = make_space(self.name, self.table, self.prediction_dims)
        self.space = self.space if self.momentum is None else Space(self.space.geometry, self.momentum)
        self.start = self.space.start((ROWS, PARTS), source=seeded(3))
        self.target = make_target(self.name, ROWS, PARTS)

    def parameters(self) -> list[tuple[str, Tensor]]:
        found: list[tuple[str, Tensor]] = [*self.weights.named_parameters(), ("log_scale", self.step_size.log_scale)]
        return found if self.name == "euclidean" else [*found, ("table", self.table)]


@dataclass
class Walk:
    """What a plain descent met on its way."""

    before: list[Tensor] = field(default_factory=list)
    directions: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)


def walk(case: Case, frozen_before: list[Tensor] | None = None, frozen_directions: list[Tensor] | None = None) -> Walk:
    """The descent as a plain loop; frozen states or directions are replayed instead of computed."""
    landscape, state, seen, memory = case.bind(), case.start, Walk(), torch.zeros_like(case.start)
    alpha = case.step_size.initial * case.step_size.log_scale.exp()
    for step in range(STEPS):
        state = (frozen_before[step] if frozen_before else state).detach()
        if frozen_directions and step < STEPS - 1:
            direction = frozen_directions[step]
        else:
            view = view_of(case.name, state, case.table).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(landscape(view, step).sum(), view)
            direction = direction_of(case.name, state, case.table, gradient).detach()
        seen.before.append(state)
        seen.directions.append(direction)
        if case.momentum is None:
            state = next_of(case.name, state, direction, alpha).detach()
        else:
            memory = (case.momentum.beta * memory - alpha * direction).detach()
            state = memory if case.momentum.restart else state + memory
        seen.after.append(state)
    return seen


def frozen_loss(case: Case, mode: str, which: str) -> Callable[[], Tensor]:
    """The loss as a function of the parameters, with everything frozen that is a constant in this mode."""
    at = walk(case)
    frozen: dict[str, Any] = {
        "full": {},
        "truncated": {"frozen_directions": at.directions},
        "detached": {"frozen_before": at.before},
    }[mode]

    def loss() -> Tensor:
        losses = [loss_of(case.name, state, case.target, case.table) for state in walk(case, **frozen).after]
        return losses[-1] if which == "last" else torch.stack(losses).mean()

    return loss


def check(case: Case, mode: Literal["detached", "truncated", "full"], which: Literal["every", "last"]) -> None:
    recipe = Recipe(gradients=mode, loss=which)
    outcome = case.space.supervise(case.bind(), case.start, case.target, case.step_size, recipe, None, STEPS)
    outcome.loss.backward()
    loss = frozen_loss(case, mode, which)
    torch.testing.assert_close(outcome.loss.detach(), loss().detach())
    assert_slopes(loss, case.parameters())


@pytest.mark.parametrize("which", ["every", "last"])
@pytest.mark.parametrize("mode", ["detached", "truncated", "full"])
@pytest.mark.parametrize("name", SPACES)
def test_gradients_in_every_space(name: str, mode: Any, which: Any) -> None:
    waves = Waves(ROWS, PARTS)
    check(Case(name, lambda: waves, waves), mode, which)


@pytest.mark.parametrize("momentum", [Momentum(0.6), Momentum(0.4, restart=False)], ids=["restart", "heavy ball"])
@pytest.mark.parametrize("mode", ["truncated", "full"])
@pytest.mark.parametrize("name", ["mirror", "compact-mirror", "euclidean"])
def test_gradients_through_a_memory(name: str, mode: Any, momentum: Momentum) -> None:
    waves = Waves(ROWS, PARTS)
    check(Case(name, lambda: waves, waves, momentum=momentum), mode, "every")


@pytest.mark.parametrize("mode", ["detached", "truncated", "full"])
@pytest.mark.parametrize(("kind", "variant"), NETWORKS)
def test_gradients_through_networks(kind: str, variant: str, mode: Any) -> None:
    weights = nn.ParameterDict({"x": nn.Parameter(normal(ROWS, PARTS, WIDTH, seed=7))})
    weights["network"] = network = make_network(kind, variant)
    name = {"none": "compact-restart", "candidate": "reference", "prefix": "euclidean", "modulation": "projected"}[
        conditioning(variant)
    ]
    check(Case(name, lambda: network.encode(weights["x"]), weights, 2 if kind == "decoder" else 1), mode, "every")


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_gradients_of_a_clamped_noisy_descent_with_random_step_sizes(spread: float) -> None:
    waves = Waves(ROWS, PARTS)
    case = Case("compact-restart", lambda: waves, waves)
    recipe = Recipe(clamp=0.3, noise=0.1, step_size_spread=spread)

    def loss() -> Tensor:
        return case.space.supervise(waves, case.start, case.target, case.step_size, recipe, seeded(1), STEPS).loss

    loss().backward()
    assert_slopes(loss, case.parameters())


def test_no_graph_is_left_by_inference() -> None:
    waves = Waves(ROWS, PARTS)
    case = Case("compact-restart", lambda: waves, waves)
    thought = case.space.descend(waves, case.start, case.step_size(), 2, final_energy=True)
    assert not any(tensor.requires_grad for tensor in (*thought.states, thought.energies))
