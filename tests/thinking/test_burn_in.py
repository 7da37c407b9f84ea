"""Steps without gradients in front of the trained ones: what they are, when they begin, and that loops have them, too."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import sudoku_ebt, sudoku_rival
from torch import Tensor

import ebt
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe, StepSize, descend, supervise

pytestmark = pytest.mark.usefixtures("float64")
PUZZLES = torch.randint(0, 5, (3, 16), generator=torch.Generator().manual_seed(0))
ANSWERS = torch.randint(0, 4, (3, 16), generator=torch.Generator().manual_seed(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("backend", ["plain", "auto"])
def test_training_begins_at_the_state_after_the_burn_in(backend: str, latent: bool) -> None:
    model = sudoku_ebt(latent=latent, head="bilinear")
    start = model.geometry().start((3, 16), 1.0, seeded())

    def after(steps: int, before: int, start: Tensor) -> Any:
        parts = model.landscape(PUZZLES), model.geometry(), model.update(), start, ANSWERS, model.step_size
        return supervise(*parts, Recipe(2, 2, burn_in=9), seeded(1), steps, backend=backend, burn_in=before)

    there = {"geometry": model.geometry(), "update": model.update(), "step_size": model.step_size}
    expected = after(2, 0, descend(model.landscape(PUZZLES), start, steps=3, **there).state.detach())
    found = after(2, 3, start)
    torch.testing.assert_close(found.loss, expected.loss)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for one, other in zip(*(torch.autograd.grad(each.loss, weights) for each in (expected, found)), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


def test_every_number_up_to_the_largest_is_drawn_and_steps_go_on_counting() -> None:
    seen: list[int] = []

    def energy(y: Tensor, step: int) -> Tensor:
        seen.append(step)
        return (y**2).sum(-1)

    counts = set()
    for seed in range(60):
        seen.clear()
        ebt.loss(energy, torch.zeros(2, 3, 2), Recipe(2, 2, burn_in=4), step_size=0.1, generator=seeded(seed))
        assert seen == list(range(len(seen)))
        counts.add(len(seen) - 2)
    assert counts == set(range(5))


@pytest.mark.parametrize("loop", ["hidden", "prediction", "recursive"])
def test_a_loop_learns_from_its_last_iterations(loop: str) -> None:
    model = sudoku_rival(loop)
    every, last = model(PUZZLES, 5), model(PUZZLES, 2, 3)
    assert len(last) == 2
    for one, other in zip(every[3:], last, strict=True):
        torch.testing.assert_close(other, one)
    _, fourth, _ = model(PUZZLES, 3, 2)
    torch.testing.assert_close(fourth, every[3])
    blocks = model.network.blocks[0].up.weight
    whole, part = (
        torch.autograd.grad(outputs[-1].square().sum(), blocks)[0] for outputs in (model(PUZZLES, 5), model(PUZZLES, 2, 3))
    )
    assert torch.allclose(whole, part) == (loop == "recursive")  # which is cut before each iteration anyway


@pytest.mark.parametrize("kind", ["ebt", "looped_hidden"])
def test_it_begins_when_the_recipe_says_so(kind: str) -> None:
    """Before, training equals that without a burn-in, bit for bit."""
    batch = {"puzzle": PUZZLES, "solution": ANSWERS + 1}

    def losses(recipe: Recipe, done: float) -> list[float]:
        head: dict[str, Any] = {"head": "bilinear"} if kind == "ebt" else {}
        task = SudokuTask(SudokuNetwork("nano", kind=kind, layers=1, dim=8, heads=2, **head), recipe)  # type: ignore[arg-type]
        torch.manual_seed(0)
        task.model = task.network.build(4, recipe, task.steps)
        task.model.load_state_dict({name: torch.randn_like(one) for name, one in task.model.state_dict().items()})
        task.budget = lambda: done
        return [task.learn(batch).loss.item() for _ in range(6)]

    plain = Recipe(1, 2)
    late = replace(plain, burn_in=8, burn_in_start=0.5)
    assert losses(late, 0.49) == losses(plain, 0.49)
    assert losses(late, 0.5) != losses(plain, 0.5)
    assert losses(replace(late, burn_in_start=0.0), 0.49) == losses(late, 0.5)


def test_passes_are_counted() -> None:
    assert Recipe(burn_in=8).mean_burn_in == 4
    assert Recipe(burn_in=8, burn_in_start=0.75).mean_burn_in == 1
    assert Recipe(burn_in=8, burn_in_start=0.25, warm_start=0.5).mean_burn_in == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"burn_in": -1}, "burn_in is -1"),
        ({"burn_in": 2.5}, "burn_in is 2.5"),
        ({"burn_in_start": 0.5}, "burn_in_start is 0.5, but burn_in is 0"),
        ({"burn_in": 4, "burn_in_start": 1.0}, "burn_in_start is 1.0"),
        ({"burn_in": 4, "landscapes": 2}, "burn_in is 4 and landscapes 2"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        Recipe(**settings)


def test_a_loop_of_ones_own_is_told_that_it_begins_at_once() -> None:
    with pytest.warns(UserWarning, match="burn_in_start is 0.5"):
        ebt.loss(lambda y: (y**2).sum(-1), torch.zeros(2, 2), Recipe(burn_in=2, burn_in_start=0.5), step_size=StepSize(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ebt.loss(lambda y: (y**2).sum(-1), torch.zeros(2, 2), Recipe(burn_in=2), step_size=StepSize(0.1))
