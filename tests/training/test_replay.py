from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import seeded

from ebt.training.replay import ReplayBuffer


def records(first: int, count: int) -> dict[str, torch.Tensor]:
    """Rows that carry their number in each tensor."""
    numbers = torch.arange(first, first + count)
    return {"target": numbers, "state": numbers[:, None, None].expand(-1, 2, 3) * 1.0}


def numbers_in(buffer: ReplayBuffer, seed: int = 0) -> list[int]:
    found = buffer.sample(10_000, seeded(seed))
    return [] if found is None else found["target"].tolist()


@given(capacity=st.integers(1, 8), batches=st.lists(st.integers(0, 5), max_size=6), seed=st.integers(0, 2**20))
def test_first_in_first_out(capacity: int, batches: list[int], seed: int) -> None:
    buffer, added = ReplayBuffer(capacity), 0
    for size in batches:
        buffer.add(records(added, size))
        added += size
    kept = list(range(max(0, added - capacity), added))
    assert len(buffer) == len(kept)
    assert sorted(numbers_in(buffer, seed)) == kept


@given(count=st.integers(1, 12), seed=st.integers(0, 2**20))
def test_samples_are_whole_records_without_repetition(count: int, seed: int) -> None:
    buffer = ReplayBuffer(10)
    buffer.add(records(0, 8))
    found = buffer.sample(count, seeded(seed))
    assert found is not None
    assert found["state"].shape == (min(count, 8), 2, 3)
    assert found["target"].unique().numel() == min(count, 8)
    assert torch.equal(found["state"][:, 0, 0], found["target"] * 1.0)
    again = buffer.sample(count, seeded(seed))
    assert again is not None
    assert torch.equal(found["target"], again["target"])


def test_every_record_is_drawn_sometimes() -> None:
    buffer = ReplayBuffer(10)
    buffer.add(records(0, 8))
    generator, seen = seeded(0), set[int]()
    for _ in range(50):
        found = buffer.sample(2, generator)
        assert found is not None
        seen.update(found["target"].tolist())
    assert seen == set(range(8))


def test_an_empty_buffer_gives_nothing() -> None:
    assert ReplayBuffer(3).sample(2) is None
    with pytest.raises(ValueError, match="replay capacity is 0"):
        ReplayBuffer(0)


def test_records_are_copies_without_a_graph() -> None:
    buffer, state = ReplayBuffer(3), torch.ones(2, 4, requires_grad=True)
    buffer.add({"state": state * 1})
    with torch.no_grad():
        state.fill_(7)
    plain = torch.zeros(1, 4)
    buffer.add({"state": plain})
    plain.fill_(7)
    found = buffer.sample(3)
    assert found is not None
    assert sorted(found["state"][:, 0].tolist()) == [0, 1, 1]
    assert not found["state"].requires_grad


def test_a_checkpoint_restores_the_buffer(tmp_path: Path) -> None:
    buffer = ReplayBuffer(5)
    buffer.add(records(0, 7))
    torch.save(buffer.state_dict(), tmp_path / "replay.pt")
    restored = ReplayBuffer(1)
    restored.load_state_dict(torch.load(tmp_path / "replay.pt", weights_only=True))
    assert numbers_in(restored, 3) == numbers_in(buffer, 3)
    for each in (buffer, restored):
        each.add(records(7, 2))
    assert numbers_in(restored, 4) == numbers_in(buffer, 4)
    assert sorted(numbers_in(restored)) == [4, 5, 6, 7, 8]
