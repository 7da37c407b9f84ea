"""More puzzles from few, and splits of a collection."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ebt.errors import InputError
from ebt.problems.sudoku.boards import is_solved, write_csv
from ebt.problems.sudoku.data import SudokuDataModule, SudokuDataset, line_orders
from ebt.problems.sudoku.generator import (
    SudokuSet,
    canonical,
    generate,
    grid_keys,
    reveal,
    shared_grids,
    solutions,
    split_collection,
)

SIZES = (4, 6, 9)
GIVENS = {4: 6, 6: 12, 9: 30}


@cache
def twelve(size: int) -> SudokuSet:
    """Twelve boards, made when a test first asks for them: collecting the tests makes none."""
    return generate(size, GIVENS[size], 12, seed=1)


@given(st.sampled_from(SIZES), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_line_orders_keep_the_rules(size: int, seed: int) -> None:
    order = line_orders(size, torch.Generator().manual_seed(seed))
    assert order.sort().values.tolist() == list(range(size * size))
    puzzles, solutions = (board[:, order.numpy()] for board in twelve(size))
    assert is_solved(solutions, puzzles, size).all()


@given(st.integers(0, 36), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_cells_are_revealed_up_to_a_number(givens: int, seed: int) -> None:
    puzzle, solution = (torch.from_numpy(board[0]) for board in twelve(6))
    shown = reveal(puzzle, solution, givens, torch.Generator().manual_seed(seed))
    assert int((shown > 0).sum()) == max(givens, 12)
    assert torch.equal(shown[shown > 0], solution[shown > 0])
    assert torch.equal(shown[puzzle > 0], puzzle[puzzle > 0])


def test_items_depend_on_seed_epoch_and_index_alone() -> None:
    puzzles, solutions = twelve(9)
    made = [SudokuDataset(puzzles, solutions, 9, True, seed, True, (32, 40)) for seed in (0, 0, 1)]
    first, same, other = ([dataset[i] for i in range(12)] for dataset in made)
    for item in first:
        assert is_solved(item["solution"].numpy(), item["puzzle"].numpy(), 9)
        assert 32 <= int((item["puzzle"] > 0).sum()) <= 40
    assert all(torch.equal(a["puzzle"], b["puzzle"]) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a["puzzle"], b["puzzle"]) for a, b in zip(first, other, strict=True))
    made[0].set_epoch(1)
    assert not all(torch.equal(made[0][i]["puzzle"], first[i]["puzzle"]) for i in range(12))


@given(st.sampled_from(SIZES), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_keys_of_grids_do_not_depend_on_labels_and_order(size: int, seed: int) -> None:
    generator, grids = torch.Generator().manual_seed(seed), twelve(size).solutions
    order = line_orders(size, generator).numpy()
    labels = np.array([0, *(torch.randperm(size, generator=generator) + 1).tolist()], dtype=np.int8)
    assert (grid_keys(labels[grids], size) == grid_keys(grids, size)).all()
    assert (grid_keys(labels[grids[:, order]], size, lines=True) == grid_keys(grids, size, lines=True)).all()


@pytest.mark.parametrize(("size", "classes"), [(4, 2), (6, 49)])
def test_keys_tell_all_classes_of_grids_apart(size: int, classes: int) -> None:
    """Their numbers are known: two grids of 4x4 (Taalman 2007), 49 of 6x6 (Jarvis and Russell 2006)."""
    every = solutions([*range(1, size + 1)] + [0] * (size * size - size), size, limit=None)
    few = every if size == 4 else every[:: len(every) // 3000]
    assert len(np.unique(grid_keys(few, size, lines=True))) == classes
    assert len(np.unique(grid_keys(few, size))) == len(few)


def test_a_turned_board_is_another_grid_of_6x6_and_the_same_of_9x9() -> None:
    nine = twelve(9).solutions
    turned = nine.reshape(-1, 9, 9).swapaxes(1, 2).reshape(-1, 81)
    assert (grid_keys(turned, 9, lines=True) == grid_keys(nine, 9, lines=True)).all()
    assert len(np.unique(grid_keys(nine, 9, lines=True))) == len(nine)


@pytest.mark.parametrize("lines", [False, True])
def test_shared_grids_are_counted_under_the_augmentations_in_use(tmp_path: Path, lines: bool) -> None:
    """The training puzzles with two rows exchanged and other labels, as a validation set."""
    rows, labels = (
        np.arange(81).reshape(9, 9)[[1, 0, *range(2, 9)]].flatten(),
        np.array([0, 2, 1, *range(3, 10)], dtype=np.int8),
    )
    swapped = SudokuSet(*(labels[part[:, rows]] for part in twelve(9)))
    assert shared_grids({"train": twelve(9), "validation": swapped}, 9, lines) == (12 if lines else 0)
    write_csv(tmp_path / "train.csv", *twelve(9))
    write_csv(tmp_path / "validation.csv", *swapped)
    files = {"train_file": str(tmp_path / "train.csv"), "validation_file": str(tmp_path / "validation.csv")}
    data = SudokuDataModule(9, **files, permute_lines=lines)  # type: ignore[arg-type]
    if lines:
        with pytest.warns(UserWarning, match="12 solution grid.*permute_lines"):
            data.prepare()
    assert data.statistics()["shared_grids"] == (12 if lines else 0)


def test_a_collection_is_split_by_the_order_of_lines_if_training_permutes_it() -> None:
    rows = np.arange(81).reshape(9, 9)[[2, 1, 0, *range(3, 9)]].flatten()
    twice = SudokuSet(*(np.concatenate((part, part[:, rows])) for part in twelve(9)))
    sets = split_collection(twice, 9, 99, {"validation": (4, 40)}, seed=1, lines=True)
    assert [len(sets[name].puzzles) for name in ("validation", "train")] == [4, 16]
    assert shared_grids(sets, 9, lines=True) == 0
    apart = split_collection(twice, 9, 99, {"validation": (4, 40)}, seed=1)
    assert [len(apart[name].puzzles) for name in ("validation", "train")] == [4, 20]
    assert shared_grids(apart, 9, lines=True) > 0


def test_a_collection_is_split_without_a_common_grid(tmp_path: Path) -> None:
    boards = generate(6, 10, 40, seed=3)
    twice = [np.concatenate((part, part)) for part in boards]  # each grid comes twice
    write_csv(tmp_path / "few.csv.gz", *twice)
    data = SudokuDataModule(
        size=6,
        collection=str(tmp_path / "few.csv.gz"),
        train_count=1000,
        train_givens=(12, 20),
        validation_count=5,
        test_count=4,
        test_givens=(10, 25),
        batch_size=8,
    )
    found = data.statistics()
    assert found["puzzles"] == {"validation": 5, "givens_10": 4, "givens_25": 4, "train": 54}
    assert found["givens"]["givens_25"] == [25, 25]
    assert found["givens"]["train"] == [10, 10]
    assert found["shared_grids"] == 0
    grids = [{grid.tobytes() for grid in canonical(part.solutions, 6)} for part in data.sets.values()]
    assert len(set.union(*grids)) == sum(map(len, grids))
    batch = next(iter(data.train_dataloader()))
    count = (batch["puzzle"] > 0).sum(1)
    assert count.min() >= 12
    assert count.max() <= 20
    assert len(count.unique()) > 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"collection": "a.csv", "train_file": "b.csv", "validation_file": "c.csv"}, "collection"),
        ({"collection": "no.csv"}, "no.csv"),
    ],
)
def test_contradictions_and_missing_files_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SudokuDataModule(size=6, **settings).prepare()


def test_a_collection_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="ask for fewer"):
        split_collection(twelve(6), 6, 4, {"validation": (12, 20)}, seed=0)
