"""Updates and stops that come with the library beyond the paper's, and the two backends, against plain loops in float64."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import COMPACT, SPACES, WIDTH, Bowl, Waves, make_space, make_table, normal, seeded

from ebt.thinking import (
    Budget,
    Change,
    Either,
    EnergyChange,
    Euclidean,
    Gradient,
    Mirror,
    Momentum,
    Places,
    Published,
    Restart,
    Rows,
    Step,
    Stop,
    Update,
    descend,
    slope,
)

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS, STEPS, ALPHA = 4, 3, 9, 0.3


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("name", [name for name in SPACES if "projected" not in name and name != "published"])
@settings(max_examples=3)
@given(beta=st.floats(0, 0.95), seed=st.integers(0, 99))
def test_momentum_is_its_formula(name: str, restart: bool, beta: float, seed: int) -> None:
    space, landscape = make_space(name, make_table()), Waves(ROWS, PARTS)
    start, update = space.start((ROWS, PARTS), source=seeded(seed)), Momentum(beta, restart)
    thought = descend(landscape, start, steps=STEPS, step_size=ALPHA, geometry=space.geometry, update=update)
    y, m = start, torch.zeros_like(start)
    for i, state in enumerate(thought.states):
        _, gradient = slope(landscape, space.view(y), i, second_order=False)
        m = beta * m - ALPHA * space.pull_back(y, gradient)
        y = m if restart else y + m
        torch.testing.assert_close(state, y)


@pytest.mark.parametrize(("restart", "same"), [(True, Restart()), (False, Mirror())])
@pytest.mark.parametrize("name", COMPACT)
def test_momentum_without_memory_is_the_plain_update(name: str, restart: bool, same: Restart | Mirror) -> None:
    space, landscape = make_space(name, make_table()), Waves(ROWS, PARTS)
    start = space.start((ROWS, PARTS), source=seeded(0))
    one, other = (
        descend(landscape, start, steps=STEPS, step_size=ALPHA, geometry=space.geometry, update=update)
        for update in (Momentum(0.0, restart), same)
    )
    torch.testing.assert_close(one.state, other.state)


@pytest.mark.parametrize("name", COMPACT)
def test_momentum_that_forgets_nothing_is_mirror_descent(name: str) -> None:
    """From a start at 0, which the memory starts from, too; the closer beta is to 1, the closer the states."""
    space, landscape = make_space(name, make_table()), Waves(ROWS, PARTS)
    start = torch.zeros_like(space.start((ROWS, PARTS)))
    mirror, *close = (
        descend(landscape, start, steps=STEPS, step_size=ALPHA, geometry=space.geometry, update=update).state
        for update in (Mirror(), Momentum(0.9), Momentum(0.99), Momentum(1 - 1e-9))
    )
    gaps = [(state - mirror).abs().max().item() for state in close]
    assert gaps[0] > gaps[1] > 1e-3
    assert gaps[2] < 1e-7


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2])
def test_a_momentum_that_does_not_fade_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=f"beta is {beta}"):
        Momentum(beta)


def first_true(flags: torch.Tensor) -> torch.Tensor:
    """The number of the first step at which a prediction may stop; the last one if it never may."""
    flags[-1] = True
    return flags.int().argmax(0) + 1


@settings(max_examples=20)
@given(tolerance=st.sampled_from([1e-9, 1e-3, 0.03, 0.3, 3.0]), seed=st.integers(0, 99))
def test_a_small_fall_of_the_energy_stops_a_prediction(tolerance: float, seed: int) -> None:
    bowl = Bowl(normal(ROWS, PARTS, WIDTH, seed=seed), 2 * torch.rand(ROWS, PARTS, generator=seeded(seed)))
    start = normal(ROWS, PARTS, WIDTH, seed=seed + 1)
    whole = descend(bowl, start, steps=STEPS, step_size=ALPHA)
    thought = descend(bowl, start, steps=STEPS, step_size=ALPHA, stop=EnergyChange(tolerance))
    falls = torch.full((STEPS, ROWS, PARTS), False)
    falls[1:] = whole.energies[: STEPS - 1] - whole.energies[1:STEPS] < tolerance
    assert torch.equal(thought.steps, first_true(falls))


@pytest.mark.parametrize("budget", [1, 3, 4.5, 100])
def test_a_budget_of_passes_is_kept(budget: float) -> None:
    bowl, start = Bowl(normal(ROWS, PARTS, WIDTH)), normal(ROWS, PARTS, WIDTH, seed=1)
    thought = descend(bowl, start, steps=STEPS, step_size=ALPHA, stop=Budget(evaluations=budget), final_energy=False)
    steps = min(STEPS, -int(-budget // 1))
    assert torch.equal(thought.steps, torch.full((ROWS, PARTS), steps))
    assert thought.evaluations.forward == steps


def test_a_budget_of_seconds_ends_thinking() -> None:
    bowl = Bowl(normal(ROWS, PARTS, WIDTH))

    def slow(view: torch.Tensor, step: int) -> torch.Tensor:
        time.sleep(0.02)
        return bowl(view, step)

    thought = descend(slow, normal(ROWS, PARTS, WIDTH, seed=1), steps=1000, step_size=ALPHA, stop=Budget(seconds=0.1))
    assert 1 <= int(thought.steps.max()) <= 6


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Change(-1), "tolerance is -1"),
        (lambda: EnergyChange(float("nan")), "tolerance is nan"),
        (Budget, "evaluations, seconds or both"),
        (lambda: Budget(evaluations=0), "evaluations is 0"),
        (lambda: Budget(seconds=-1), "seconds is -1"),
        (lambda: Either(()), "no stop"),
    ],
)
def test_stops_that_cannot_stop_are_refused(make: Callable[[], Stop], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


class Near:
    """A stop of one's own: a prediction stops in the neighbourhood of 0."""

    def __call__(self, step: Step, /) -> torch.Tensor:
        return step.geometry.change(torch.zeros_like(step.after), step.after) < 0.4


STOPS: tuple[Stop, ...] = (Change(0.05), EnergyChange(0.02), Either((EnergyChange(0.05), Change(0.001))), Near())
UPDATES = (None, Gradient(), Mirror(), Restart(), Published(), Momentum(0.3), Momentum(0.3, restart=False))
SOURCES: tuple[Callable[[int], Any], ...] = (seeded, Rows, lambda seed: Places(seed, 2))


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: type(stop).__name__)
@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=6)
@given(
    seed=st.integers(0, 99),
    update=st.sampled_from(UPDATES),
    noise=st.sampled_from([0.0, 0.05]),
    source=st.sampled_from(SOURCES),
)
def test_leaving_out_what_has_stopped_changes_nothing(
    name: str, stop: Stop, seed: int, update: Update | None, noise: float, source: Callable[[int], Any]
) -> None:
    space = make_space(name, make_table())
    how: dict[str, Any] = {"geometry": space.geometry, "update": update or space.update, "stop": stop, "noise": noise}
    bowl = Bowl(normal(ROWS, PARTS, WIDTH, seed=seed), 2 * torch.rand(ROWS, PARTS, generator=seeded(seed)))
    start = space.start((ROWS, PARTS), source=seeded(seed))
    plain, auto = (
        descend(bowl, start, steps=STEPS, step_size=ALPHA, generator=source(seed), backend=backend, **how)
        for backend in ("plain", "auto")
    )
    assert torch.equal(plain.steps, auto.steps)
    for i in range(len(plain.energies)):  # what has stopped has no further energies, but for the last
        here = (plain.steps > i) | (i == len(plain.energies) - 1)
        torch.testing.assert_close(auto.energies[i][here], plain.energies[i][here])
    for one, other in zip(auto.states, plain.states, strict=True):
        torch.testing.assert_close(one, other)


def test_passes_that_are_saved_serve_those_that_go_on() -> None:
    bowl = Bowl(normal(ROWS, PARTS, WIDTH), torch.rand(ROWS, PARTS, generator=seeded(3)).round() + 0.02)
    stop = Either((Change(0.01), Budget(evaluations=4)))
    plain, auto = (
        descend(bowl, normal(ROWS, PARTS, WIDTH, seed=1), steps=30, step_size=0.5, stop=stop, backend=backend)
        for backend in ("plain", "auto")
    )
    assert (auto.steps >= plain.steps).all()
    assert auto.steps.max() > plain.steps.max() == 4


class Odd:
    """A stop or an update that returns what it was told."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def __call__(self, step: Step, /) -> Any:
        return self.given


class OddUpdate(Odd, Update):
    def move(self, state: torch.Tensor, direction: torch.Tensor, alpha: torch.Tensor, memory: Any) -> Any:
        return self.given(state)


@pytest.mark.parametrize("backend", ["auto", "plain"])
@pytest.mark.parametrize("wrap", [lambda stop: stop, lambda stop: Either((Change(0.1), stop))], ids=["alone", "either"])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (torch.zeros(ROWS, PARTS), r"torch.float32 of shape \(4, 3\)"),
        (None, "NoneType"),
        (torch.zeros(ROWS + 1, PARTS, dtype=torch.bool), r"torch.bool of shape \(5, 3\)"),
        (torch.zeros(ROWS, PARTS, WIDTH, dtype=torch.bool), r"torch.bool of shape"),
        (1, "int"),
        ("yes", "str"),
    ],
)
def test_a_stop_that_returns_something_else_is_named(given: Any, named: str, wrap: Any, backend: str) -> None:
    start = normal(ROWS, PARTS, WIDTH)
    with pytest.raises(ValueError, match=rf"the stop Odd returned {named}.*: return one bool per prediction, \(4, 3\)"):
        descend(Bowl(start), start, steps=3, step_size=ALPHA, stop=wrap(Odd(given)), backend=backend)


@pytest.mark.parametrize("given", [True, torch.tensor(True), torch.ones(ROWS, PARTS, dtype=torch.bool)], ids=str)
def test_a_stop_gives_one_flag_per_prediction_or_one_for_all(given: Any) -> None:
    start = normal(ROWS, PARTS, WIDTH)
    assert descend(Bowl(start), start, steps=3, step_size=ALPHA, stop=Odd(given)).steps.eq(1).all()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (lambda state: (state[..., :2], None), r"\(torch.float64 of shape \(4, 3, 2\), NoneType\)"),
        (lambda state: state, r"torch.float64 of shape \(4, 3, 5\)"),
        (lambda state: (state, None, None), "\\(torch.float64"),
        (lambda state: None, "NoneType"),
    ],
)
def test_an_update_that_returns_something_else_is_named(given: Any, named: str) -> None:
    start = normal(ROWS, PARTS, 5)
    with pytest.raises(ValueError, match=rf"the update OddUpdate returned {named}.*: return .* \(4, 3, 5\), and the memory"):
        descend(Bowl(start), start, steps=1, step_size=ALPHA, update=OddUpdate(given))


def test_either_stops_what_one_of_them_stops() -> None:
    step = Step(Euclidean(2, (1,)), torch.zeros(2, 1, 1), torch.tensor([[[0.0]], [[1.0]]]), torch.zeros(2, 1), None, 1.0)
    assert torch.as_tensor(Either((Change(0.1), EnergyChange(0.1)))(step)).flatten().tolist() == [True, False]
    assert torch.as_tensor(Either((Change(0.1), Budget(evaluations=1)))(step)).all()


class Own(torch.nn.Module):
    """A user's network: squared distance to a linear prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, WIDTH)

    def energy(self, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda y: (self.linear(x) - y).square().sum(-1)


@pytest.mark.parametrize("stop", [None, Change(0.1)])
def test_inference_mode_outside_changes_nothing(stop: Stop | None) -> None:
    own, x, start = Own(), normal(ROWS, WIDTH), normal(ROWS, WIDTH, seed=1)
    plain = descend(own.energy(x), start, steps=3, step_size=ALPHA, update=Gradient(), stop=stop)
    with torch.inference_mode():
        for begun in (start, start.clone()):
            thought = descend(own.energy(x), begun, steps=3, step_size=ALPHA, update=Gradient(), stop=stop)
            torch.testing.assert_close(thought.state, plain.state)
            torch.testing.assert_close(thought.energies, plain.energies)
        made_inside = x.clone()
        with pytest.raises(ValueError, match=r"under torch.inference_mode.*outside of it"):
            descend(lambda y: own.linear(y * made_inside).square().sum(-1), start, steps=3, step_size=ALPHA)
    assert not torch.is_inference_mode_enabled()
