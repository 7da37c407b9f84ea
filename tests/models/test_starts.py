from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebt.models.starts import starts
from ebt.thinking import SIMPLEX_SPACES

TABLE = torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
SPACE = SIMPLEX_SPACES["compact-restart"](2, TABLE)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 4), st.integers(-3, 3))
def test_a_start_depends_on_seed_position_and_candidate_alone(positions: list[int], candidates: int, seed: int) -> None:
    rows = torch.tensor([positions, positions[::-1]])
    found = starts(SPACE, 1.0, rows, candidates, seed).unflatten(0, (candidates, 2))
    for m in range(candidates):
        for b in range(2):
            for s, position in enumerate(rows[b]):
                alone = starts(SPACE, 1.0, position.view(1, 1), m + 1, seed)[m, 0]
                assert torch.equal(found[m, b, s], alone)


def test_seeds_positions_and_candidates_differ() -> None:
    found = torch.cat([starts(SPACE, 1.0, torch.arange(4).view(1, 4), 3, seed).flatten(0, 1) for seed in (0, 1)])
    assert len(found.unique(dim=0)) == 2 * 3 * 4


@pytest.mark.parametrize("name", SIMPLEX_SPACES)
def test_logits_have_the_standard_deviation_asked_for(name: str) -> None:
    space = SIMPLEX_SPACES[name](2, TABLE)
    found = space.logits(starts(space, 2.5, torch.arange(400).view(1, -1), 2, 0))
    assert found.shape == (2, 400, 11)
    assert found.square().mean().sqrt() == pytest.approx(2.5, rel=0.1)


def test_double_precision_starts_where_single_does() -> None:
    single = starts(SPACE, 1.0, torch.arange(3).view(1, 3), 1, 0)
    space = SIMPLEX_SPACES["compact-restart"](2, TABLE.double())
    assert torch.allclose(starts(space, 1.0, torch.arange(3).view(1, 3), 1, 0).float(), single, atol=1e-6)
