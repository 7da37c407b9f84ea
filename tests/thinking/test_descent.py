from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import WIDTH, Bowl, Waves, make_simplex, make_table, normal, seeded

from ebt.thinking import Change, Mirror, Recipe, StepSize, descend, loss, slope

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1, "noise": -0.1}, "noise is -0.1"),
        ({"steps": 1, "noise": torch.tensor([0.1, -0.1])}, "noise is tensor"),
        ({"steps": 1, "noise_steps": -1}, "noise_steps is -1"),
        ({"steps": 1, "noise_steps": 0.5}, "noise_steps is 0.5"),
        ({"steps": 1, "clamp": 0}, "clamp is 0"),
        ({"steps": 1, "gradients": "some"}, "gradients is 'some': choose one of none, detached, truncated, full"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": 1, "stop": Change(0.1), "gradients": "full"}, "stop.*gradients to none"),
        ({"steps": 1, "schedule": (0, 1)}, "schedule has 2 entries for 1 steps"),
        ({"steps": 1, "backend": "fastest"}, "backend is 'fastest'"),
        ({"steps": 1, "noise": math.nan}, "noise is nan"),
        ({"steps": 1, "geometry": "euclidean"}, "geometry is 'euclidean'"),
        ({"steps": 1, "update": Mirror}, "update is .*Mirror"),
        ({"steps": 1, "stop": "change"}, "stop is 'change'"),
        ({"steps": 1, "stop": Change}, "stop is .*Change"),
        ({"steps": 1, "start": torch.empty(0, 3)}, r"start has shape \(0, 3\)"),
        ({"steps": 1, "start": torch.empty(2, 0, 3)}, r"start has shape \(2, 0, 3\)"),
        ({"steps": 1, "start": torch.tensor(1.0)}, r"start has shape \(\)"),
        ({"steps": 1, "start": torch.ones(2, 3, dtype=torch.long)}, "start is torch.int64"),
        ({"steps": 1, "start": [[1.0, 2.0, 3.0]]}, "start is list"),
        ({"steps": 1, "step_size": -0.1}, "step_size is -0.1: give a number of at least 0"),
        ({"steps": 1, "step_size": torch.tensor([0.1, -0.1])}, "step_size is tensor"),
        ({"steps": 1, "step_size": math.nan}, "step_size is nan"),
        ({"steps": 1, "energy": lambda y: 3.0}, "the energy returned float"),
        ({"steps": 1, "energy": lambda y: (y.sum(-1), y)}, "the energy returned tuple"),
    ],
)
def test_contradictions_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        descend(**{"energy": Bowl(normal(2, 3)), "start": normal(2, 3), "step_size": 0.1, **settings})


def by_position(y: Tensor) -> Tensor:
    return (y - 1).square().sum(-1)


class OfOne(nn.Module):
    def forward(self, y: Tensor) -> Tensor:
        return by_position(y)


class OfTwo(nn.Module):
    def forward(self, y: Tensor, step: int) -> Tensor:
        return (1 + step) * by_position(y)


ENERGIES: dict[str, tuple[Callable[..., Tensor], bool]] = {
    "function of one": (by_position, False),
    "function of two": (lambda y, step: (1 + step) * by_position(y), True),
    "function of any": (lambda *given: (1 + given[1]) * by_position(given[0]), True),
    "function with an option": (lambda y, scale=1: scale * by_position(y), False),
    "bound arguments": (partial(lambda x, y: by_position(y) + x, 3.0), False),
    "module of one": (OfOne(), False),
    "module of two": (OfTwo(), True),
}


@pytest.mark.parametrize("outside", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ENERGIES)
def test_energies_of_every_kind_are_descended(kind: str, outside: Callable[[], AbstractContextManager[None]]) -> None:
    (energy, told), start, expected = ENERGIES[kind], normal(2, 3), normal(2, 3)
    with outside():
        thought = descend(energy, start, steps=3, step_size=0.1)
    for i in range(3):
        expected = expected - 0.1 * (1 + i * told) * 2 * (expected - 1)
        torch.testing.assert_close(thought.states[i], expected)
    assert not thought.state.requires_grad


class Bound(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return by_position(x * y)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: nn.DataParallel(OfOne()),
        lambda: nn.DataParallel(OfTwo()),
        lambda: torch.func.vmap(OfOne()),
        lambda: partial(Bound(), torch.ones(())),
        lambda: partial(nn.DataParallel(OfOne())),
        lambda: torch.compile(OfOne(), backend="eager", disable=True),
    ],
)
def test_wrappers_that_hide_what_an_energy_takes(wrap: Callable[[], Any]) -> None:
    start = normal(3, 2, WIDTH)
    twice = isinstance(wrap(), nn.DataParallel) and isinstance(wrap().module, OfTwo)
    expected = descend(OfTwo() if twice else by_position, start, steps=2, step_size=0.1)
    assert torch.equal(descend(wrap(), start, steps=2, step_size=0.1).path, expected.path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_keeps_the_dtype_that_the_network_takes(dtype: torch.dtype) -> None:
    network = nn.Linear(3, 1, dtype=dtype)
    thought = descend(lambda y: network(y).squeeze(-1), normal(2, 3).to(dtype), steps=2, step_size=0.1, noise=0.1)
    assert thought.best.isfinite().all()


def test_a_learnable_step_size_is_its_value() -> None:
    start = normal(2, 3)
    one, other = (descend(by_position, start, steps=2, step_size=size) for size in (StepSize(0.1), 0.1))
    torch.testing.assert_close(one.path, other.path)


def test_a_loss_is_the_same_in_inference_mode() -> None:
    target, start = normal(2, 3), normal(2, 3)
    expected = loss(OfOne(), target, Recipe.s1(), start=start, step_size=0.1)
    with torch.inference_mode():
        assert torch.equal(loss(OfOne(), target.clone(), Recipe.s1(), start=start.clone(), step_size=0.1), expected.detach())


def test_slope_works_where_gradients_are_off() -> None:
    landscape, view = Waves(2, 3), normal(2, 3, WIDTH)
    with torch.no_grad():
        energies, gradient = slope(landscape, view, 0, second_order=False)
    torch.testing.assert_close(energies, landscape(view, 0))
    assert not gradient.requires_grad
    nudge = 1e-6 * normal(2, 3, WIDTH, seed=1)
    change = landscape(view + nudge, 0) - landscape(view - nudge, 0)
    torch.testing.assert_close((gradient * nudge).sum(-1) * 2, change, rtol=1e-5, atol=1e-12)


def test_the_step_index_counts_from_zero_and_ends_with_the_last_steps_landscape() -> None:
    waves, seen = Waves(2, 3), list[int]()
    space = make_simplex("restart", make_table())

    def landscape(candidate: torch.Tensor, step: int) -> torch.Tensor:
        seen.append(step)
        return waves(candidate, step)

    space.descend(landscape, space.start((2, 3), source=seeded(0)), 1.0, 3, final_energy=True)
    assert seen == [0, 1, 2, 2]


class Never(torch.autograd.Function):
    """Has no derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


WEIGHT = torch.ones(3, requires_grad=True)
FLAT: dict[str, tuple[Any, str]] = {
    "detached": (lambda y: (WEIGHT * y.detach()).sum(-1), "does not depend on the candidates"),
    "compared": (lambda y: WEIGHT.sum() * (y > 0).sum(-1), "does not depend on the candidates"),
    "rounded": (lambda y, step: y.long().sum(-1).double(), "does not depend on the candidates"),
    "no derivative": (lambda y: Never.apply(WEIGHT * y).sum(-1), "has no derivative"),  # type: ignore[no-untyped-call]
}


@pytest.mark.parametrize("gradients", ["none", "full"])
@pytest.mark.parametrize("kind", FLAT)
def test_an_energy_that_cannot_be_differentiated_is_named(kind: str, gradients: Any) -> None:
    energy, words = FLAT[kind]

    def landscape(view: torch.Tensor, step: int) -> torch.Tensor:
        found: torch.Tensor = energy(view, step) if kind == "rounded" else energy(view)
        return found

    for given in (landscape, energy):
        with pytest.raises(ValueError, match=words) as told:
            descend(given, normal(2, 3), steps=1, step_size=0.1, gradients=gradients)
        assert given.__qualname__ in str(told.value)


class Attractor:
    """``|y - cos y|^2 / 2``, followed as if ``cos y`` were constant."""

    def __call__(self, y: Tensor) -> Tensor:
        return (y - y.cos()).square().sum(-1) / 2

    def slope(self, y: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return self(y), y - y.cos()


@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_an_energy_may_give_its_own_slope(backend: str) -> None:
    start = torch.zeros(2, 1, requires_grad=True)
    found = descend(Attractor(), start, steps=60, step_size=1.0, backend=backend)
    assert found.state.flatten().tolist() == pytest.approx([0.739085] * 2, abs=1e-4)
    assert found.evaluations.backward == 0
    trained = descend(Attractor(), start, steps=2, step_size=1.0, gradients="full", final_energy=False, backend=backend)
    (gradient,) = torch.autograd.grad(trained.state.sum(), start)
    assert gradient.flatten().tolist() == pytest.approx([0, 0], abs=1e-6)  # d cos(cos y) / dy at 0
    half = descend(Attractor(), start + 1, steps=1, step_size=0.5, gradients="full", final_energy=False, backend=backend)
    (gradient,) = torch.autograd.grad(half.state.sum(), start)
    assert gradient.flatten().tolist() == pytest.approx([0.5 - 0.5 * math.sin(1)] * 2, abs=1e-6)


class Sloped(nn.Module):
    """An energy with a weight that happens to be called slope."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([3.0]))

    def forward(self, y: Tensor) -> Tensor:
        return (self.slope * y).sum(-1)


def test_a_weight_named_slope_is_no_slope() -> None:
    found = descend(Sloped(), torch.zeros(2, 1), steps=1, step_size=1.0)
    assert found.state.tolist() == [[-3.0], [-3.0]]
    assert found.evaluations.backward == 1
