from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import WIDTH, Bowl, make_simplex, make_table, make_target, normal, seeded, vectors

from ebt.thinking import Recipe, StepSize, mean_loss

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"min_steps": 0}, "min_steps is 0"),
        ({"min_steps": 4, "max_steps": 3}, "min_steps 4 and max_steps 3"),
        ({"gradients": "none"}, "gradients is 'none'"),
        ({"gradients": "half"}, "gradients is 'half'"),
        ({"loss": "first"}, "loss is 'first'"),
        ({"step_size_spread": 0.5}, "step_size_spread is 0.5"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"start_std": -1.0}, "start_std is -1.0"),
        ({"clamp": -1.0}, "clamp is -1.0"),
        ({"replay_size": 10}, "replay_size 10 with replay_fraction 0.0"),
        ({"replay_fraction": 0.5}, "replay_size 0 with replay_fraction 0.5"),
        ({"replay_size": 10, "replay_fraction": 1.5}, "replay_fraction is 1.5"),
        ({"replay_size": -1, "replay_fraction": 0.0}, "replay_size is -1"),
        ({"gradients": "detached", "noise": 0.1}, "detached is the S1 recipe"),
        ({"gradients": "detached", "step_size_spread": 2.0}, "detached is the S1 recipe"),
        ({"gradients": "detached", "replay_size": 5, "replay_fraction": 0.5}, "detached is the S1 recipe"),
    ],
)
def test_contradictions_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Recipe(**settings)


def test_the_papers_recipes() -> None:
    assert Recipe.s1() == Recipe(2, 2, gradients="detached", loss="every")
    assert Recipe.s1(3, clamp=1.0) == Recipe(3, 3, gradients="detached", clamp=1.0)
    s2 = Recipe.s2(noise=0.5)
    assert (s2.min_steps, s2.max_steps, s2.gradients, s2.loss, s2.noise) == (2, 3, "truncated", "last", 0.5)
    assert s2.step_size_spread > 1
    assert s2.replay_size > 0
    with pytest.raises(ValueError, match="S1 recipe"):
        Recipe.s1(noise=0.1)


@given(low=st.integers(1, 5), more=st.integers(0, 3), seed=st.integers(0, 2**20))
def test_the_number_of_steps_covers_both_ends(low: int, more: int, seed: int) -> None:
    recipe, generator = Recipe(low, low + more), seeded(seed)
    drawn = [recipe.draw_schedule(generator) for _ in range(200)]
    assert set(drawn) == {tuple(range(count)) for count in range(low, low + more + 1)}
    again = seeded(seed)
    assert drawn == [recipe.draw_schedule(again) for _ in range(200)]


@pytest.mark.parametrize("repeated", ["all", "last"])
def test_each_landscape_gets_its_own_number_of_steps(repeated: Any) -> None:
    recipe = Recipe(2, 3, landscapes=3, repeated=repeated)
    drawn = {recipe.draw_schedule(seeded(seed)) for seed in range(200)}
    counts = {tuple(schedule.count(i) for i in range(3)) for schedule in drawn}
    assert all(schedule == tuple(sorted(schedule)) for schedule in drawn)
    assert counts == (set(product((2, 3), repeat=3)) if repeated == "all" else {(1, 1, 2), (1, 1, 3)})
    assert (recipe.told_steps, recipe.own_steps) == (3, 5)


@pytest.mark.parametrize("which", ["every", "last"])
def test_losses_are_those_of_the_states(which: Any) -> None:
    space, target = make_simplex("mirror", make_table()), make_target("", 2, 3)
    start, bowl = space.start((2, 3), source=seeded(0)), Bowl(normal(2, 3, WIDTH))
    outcome = space.supervise(bowl, start, target, StepSize(0.7), Recipe(loss=which), None, 4)
    expected = torch.stack([mean_loss(space.geometry, state, target) for state in outcome.thought.states]).detach()
    assert torch.equal(outcome.losses, expected)
    assert outcome.loss.item() == pytest.approx((expected.mean() if which == "every" else expected[-1]).item())


def test_step_sizes_are_drawn_per_prediction() -> None:
    target, start = normal(4, 3, WIDTH, seed=1), normal(4, 3, WIDTH, seed=2)
    recipe = Recipe(step_size_spread=3.0)
    for dims in (1, 2):
        drawn = (
            vectors(dims, (WIDTH,)).supervise(Bowl(target), start, target, StepSize(0.1), recipe, seeded(0)).thought.step_size
        )
        assert drawn.unique().numel() == (4 if dims == 1 else 12)
        assert drawn.min() >= 0.1 / 3
        assert drawn.max() <= 0.3


def test_the_number_of_steps_is_drawn_unless_it_is_given() -> None:
    space, target = vectors(2, (WIDTH,)), normal(2, 3, WIDTH, seed=1)
    args = (Bowl(target), normal(2, 3, WIDTH, seed=2), target, StepSize(0.1), Recipe(2, 5))
    generator = seeded(0)
    assert {len(space.supervise(*args, generator).losses) for _ in range(40)} == {2, 3, 4, 5}
    assert len(space.supervise(*args, generator, 7).losses) == 7
