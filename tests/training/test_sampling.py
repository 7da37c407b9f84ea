"""The order of training: a function of seed and epoch, and of nothing that happened before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from ebt.errors import InputError
from ebt.training.sampling import ResumableLoader, ResumableSampler


class Count(IterableDataset[int]):
    """The numbers from 0 to 9, without a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


def build(kind: str, batch_size: int = 3, seed: int = 0, workers: int = 0) -> ResumableLoader:
    if kind == "stream":
        return ResumableLoader(Count(), batch_size=batch_size, num_workers=workers)
    return ResumableLoader(
        range(10),  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=ResumableSampler(range(10), seed),
        num_workers=workers,
    )


def epoch(loader: ResumableLoader, number: int) -> Iterator[list[int]]:
    if isinstance(loader.sampler, ResumableSampler):
        loader.sampler.set_epoch(number)
    return (batch.tolist() for batch in loader)


@given(st.integers(1, 50), st.integers(0, 99), st.integers(0, 9), st.integers(1, 4))
def test_epoch_is_a_permutation_of_seed_and_epoch(size: int, seed: int, number: int, processes: int) -> None:
    samplers = [ResumableSampler(range(size), seed, processes, rank) for rank in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(number)
    parts = [list(sampler) for sampler in samplers]
    assert {len(part) for part in parts} == {size // processes}
    drawn = [index for part in parts for index in part]
    assert len(set(drawn)) == len(drawn) == size // processes * processes
    assert set(drawn) <= set(range(size))
    torch.rand(3)  # the global generator has no say
    assert [list(sampler) for sampler in samplers] == parts


def test_orders_of_neighbouring_seeds_and_epochs_differ() -> None:
    orders = set()
    for seed in range(4):
        sampler = ResumableSampler(range(30), seed)
        for number in range(4):
            sampler.set_epoch(number)
            orders.add(tuple(sampler))
    assert len(orders) == 16


@pytest.mark.parametrize("kind", ["map", "stream"])
@pytest.mark.parametrize("position", range(5))
def test_loader_resumes_anywhere(kind: str, position: int) -> None:
    loader = build(kind)
    order = [*epoch(loader, 0), *epoch(loader, 1), *epoch(loader, 2)]
    loader = build(kind)
    before = list(islice(epoch(loader, 1), position))
    state = loader.state_dict()
    resumed = build(kind)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    first = 1 if position < 4 or kind == "stream" else 2  # the end of epoch 1 is the start of epoch 2
    after = [*epoch(resumed, first), *epoch(resumed, first + 1)]
    expected = order[4 + position : 12]
    assert before + after[: len(expected)] == order[4:]


def test_caller_may_number_a_resumed_epoch_otherwise() -> None:
    loader = build("map")
    order = [list(epoch(loader, number)) for number in range(3)]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batches": 2})
    assert list(epoch(loader, 5)) == order[1][2:]
    assert list(epoch(loader, 6)) == order[2]
    loader = build("map")
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batches": 2})
    loader.sampler.set_epoch(1)  # type: ignore[union-attr]
    assert list(epoch(loader, 2)) == order[2]  # another epoch forgets the position


def test_workers_do_not_run_ahead_of_the_position() -> None:
    order = list(epoch(build("map"), 0))
    loader = build("map", workers=1)
    assert list(islice(epoch(loader, 0), 1)) == order[:1]
    assert loader.state_dict()["batches"] == 1


def test_progress_of_the_trainer_counts() -> None:
    loader = build("map")
    loader.progress = lambda: (1, 3.0)
    list(epoch(loader, 2))
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (2, 1)
    loader.progress = lambda: (3, 3.0)
    assert (loader.state_dict()["epoch"], loader.state_dict()["batches"]) == (3, 0)


@pytest.mark.parametrize(("kind", "other"), [("map", {"batch_size": 2}), ("map", {"seed": 1}), ("stream", {"workers": 1})])
def test_other_conditions_are_refused(kind: str, other: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Resume with the same settings"):
        build(kind, **other).load_state_dict(build(kind).state_dict())


@pytest.mark.parametrize(("before", "after"), [((2, 3), (1, 6)), ((2, 3), (1, 3)), ((1, 6), (2, 3)), ((1, 3), (2, 3))])
def test_another_number_of_processes_continues_the_epoch(before: tuple[int, int], after: tuple[int, int]) -> None:
    """(processes, batch size) before and after: nothing is read twice, up to a batch, and nothing is left out."""

    def loaders(processes: int, size: int) -> list[ResumableLoader]:
        samplers = (ResumableSampler(range(60), 0, processes, rank) for rank in range(processes))
        return [ResumableLoader(range(60), batch_size=size, sampler=one) for one in samplers]

    old, new = loaders(*before), loaders(*after)
    read = [batch for loader in old for batch in islice(epoch(loader, 0), 3)]
    taken = {int(index) for batch in read for index in batch}
    moved: list[int] = []
    for loader in new:
        loader.moved = moved.append
        loader.load_state_dict({**old[0].state_dict(), "epoch": 0, "batches": 3})
    rest = [int(index) for loader in new for batch in epoch(loader, 0) for index in batch]
    again = len(taken) % (after[0] * after[1])
    assert len(taken & set(rest)) == again
    assert taken | set(rest) == set(range(60))
    assert len(rest) == len(set(rest))
    batches = len(taken) // (after[0] * after[1])
    assert moved == ([batches] * after[0] if batches != 3 else [])
