"""Starts and noise depend on seeds, steps, candidates and positions; not on what is computed together, nor on where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import WIDTH, Waves, make_space, make_table, normal, seeded

from ebt.models.thinking import Thinking, think
from ebt.thinking import Places, Recipe, Rows, Thought

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS = 3, 4


@given(seed=st.integers(0, 2**40), step=st.integers(-1, 9), cut=st.integers(1, ROWS - 1))
def test_rows_draw_alike_in_groups_of_any_size(seed: int, step: int, cut: int) -> None:
    like, rows = torch.empty(ROWS, PARTS, WIDTH), Rows(seed)
    drawn = rows.at(step)(like)
    groups = [rows.of(part).at(step)(like[part]) for part in (slice(0, cut), slice(cut, ROWS))]
    assert torch.equal(torch.cat(groups), drawn)
    assert drawn.flatten().unique().numel() == drawn.numel()
    assert not torch.equal(Rows(seed).at(step + 1)(like), drawn)
    assert not torch.equal(Rows(seed + 1).at(step)(like), drawn)


@given(seed=st.integers(0, 2**40), step=st.integers(-1, 9), more=st.integers(1, 3))
def test_places_draw_by_candidate_and_position_alone(seed: int, step: int, more: int) -> None:
    positions = torch.tensor([[0, 1, 2, 3], [5, 5, 6, 7], [3, 2, 1, 0]])  # the first two behind padding, the third backwards

    def draw(candidates: int, positions: torch.Tensor | None, rows: int = ROWS, parts: int = PARTS) -> torch.Tensor:
        like = torch.empty(candidates * rows, parts, WIDTH)
        return Places(seed, candidates, positions).at(step)(like).unflatten(0, (candidates, rows))

    drawn = draw(2, positions)
    assert torch.equal(draw(2 + more, positions)[:2], drawn)
    assert torch.equal(drawn[:, 0], drawn[:, 2].flip(1))
    assert torch.equal(drawn[:, 1, 0], drawn[:, 1, 1])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(draw(2, None)[:, 1], drawn[:, 0])
    assert torch.equal(draw(2, positions[:2], 2), drawn[:, :2])
    assert torch.equal(draw(2, positions[:, 3:], ROWS, 1), drawn[:, :, 3:])  # a cache: the last position alone
    assert drawn[:, 0].flatten().unique().numel() == drawn[:, 0].numel()


@pytest.mark.parametrize("name", ["compact-restart", "mirror", "euclidean"])
@settings(max_examples=6)
@given(seed=st.integers(0, 99), stop=st.sampled_from([{}, {"tolerance": 0.05}]))
def test_an_answer_depends_neither_on_the_batch_nor_on_further_candidates(name: str, seed: int, stop: dict[str, Any]) -> None:
    space, waves = make_space(name, make_table()), Waves(ROWS, PARTS)
    positions = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [1, 2, 3, 4]])

    def run(rows: slice, parts: slice, candidates: int = 2) -> Thought:
        waves_here = Waves(ROWS, PARTS)
        waves_here.shift.data = waves.shift.data[rows, parts]
        how = Thinking(steps=4, candidates=candidates, noise=0.2, seed=seed, **stop)
        where = positions[rows, parts]
        found = think(waves_here, space.geometry, space.update, 0.5, how, tuple(where.shape), positions=where)
        assert found.candidates is not None
        return found.candidates

    every = slice(0, None)
    whole = run(every, every).state.unflatten(0, (2, ROWS))
    torch.testing.assert_close(run(slice(1, 3), every).state.unflatten(0, (2, 2)), whole[:, 1:])
    torch.testing.assert_close(run(every, slice(2, 4)).state.unflatten(0, (2, ROWS)), whole[:, :, 2:])
    torch.testing.assert_close(run(every, every, 4).state.unflatten(0, (4, ROWS))[:2], whole)
    alone = run(every, every, 1).state  # the first candidate has no noise, and thinks as one alone does
    torch.testing.assert_close(alone, whole[0])


@pytest.mark.parametrize("backend", ["plain", "auto"])
def test_noise_of_training_follows_the_generator(backend: str) -> None:
    space, target = make_space("euclidean", make_table()), normal(ROWS, PARTS, WIDTH, seed=1)
    start = normal(ROWS, PARTS, WIDTH, seed=2)
    losses = [
        space.supervise(Waves(ROWS, PARTS), start, target, 0.5, Recipe(noise=0.3), seeded(seed), 3, None, backend).loss  # type: ignore[arg-type]
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
