"""Puzzles as batches: sets without common grids, files, refusals, an order that the seed alone decides."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebt.errors import InputError
from ebt.problems.sudoku.boards import is_solved, write_csv
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.generator import SudokuSet, canonical, count_guesses, generate

SMALL: dict[str, Any] = {
    "size": 6,
    "train_count": 12,
    "train_givens": (16, 20),
    "validation_count": 3,
    "test_count": 2,
    "test_givens": (14, 18),
    "batch_size": 5,
}


def epoch(data: SudokuDataModule, number: int = 0) -> dict[str, torch.Tensor]:
    """All batches of one epoch."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[union-attr]
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_sets_share_no_grid_and_tell_their_sizes() -> None:
    data = SudokuDataModule(**SMALL)
    told = data.statistics()
    assert told["puzzles"] == {"givens_14": 2, "givens_18": 2, "validation": 3, "train": 12}
    assert told["givens"]["givens_14"] == [14, 14]
    assert 16 <= told["givens"]["train"][0] <= told["givens"]["train"][1] <= 20
    assert told["shared_grids"] == 0
    grids = [{grid.tobytes() for grid in canonical(part.solutions, 6)} for part in data.sets.values()]
    assert all(not one & other for one, other in pairwise(grids))
    assert data.test_names == ["givens_14", "givens_18"]
    assert [len(next(iter(loader))["puzzle"]) for loader in data.test_dataloader()] == [2, 2]


def test_training_batches_are_whole_and_relabelled_each_epoch() -> None:
    data = SudokuDataModule(**SMALL)
    first, again, second = epoch(data), epoch(SudokuDataModule(**SMALL)), epoch(data, 1)
    assert first["puzzle"].shape == (10, 36)  # two batches of 5; the rest of 2 is left out
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["solution"], second["solution"])
    for part in (first, second):
        assert is_solved(part["solution"].numpy(), part["puzzle"].numpy(), 6).all()
    own = {solution.tobytes() for solution in data.sets["train"].solutions}
    assert not {bytes(row.to(torch.int8).numpy()) for row in first["solution"]} <= own
    plain = epoch(SudokuDataModule(**SMALL, permute_digits=False))
    assert {bytes(row.to(torch.int8).numpy()) for row in plain["solution"]} <= own
    assert not torch.equal(epoch(SudokuDataModule(**SMALL, seed=1))["puzzle"], first["puzzle"])


def test_files_replace_generated_puzzles(tmp_path: Path) -> None:
    paths = {}
    for seed, name in enumerate(("train", "validation", "hard")):
        part = generate(6, 18, 4, seed)
        paths[name] = str(tmp_path / f"{name}.csv")
        write_csv(paths[name], part.puzzles, part.solutions)
    files: dict[str, Any] = {"train_file": paths["train"], "validation_file": paths["validation"]}
    data = SudokuDataModule(6, **files, test_files={"hard": paths["hard"]}, batch_size=2)
    assert data.test_names == ["hard"]
    assert data.statistics()["puzzles"] == {"train": 4, "validation": 4, "hard": 4}
    assert len(next(iter(data.val_dataloader()))["puzzle"]) == 2
    leaky = SudokuDataModule(6, **files, test_files={"hard": paths["train"]}, batch_size=2)
    with pytest.warns(UserWarning, match="4 solution grid"):
        leaky.prepare()
    with pytest.raises(InputError, match="test_files"):
        SudokuDataModule(6, **files).test_dataloader()


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 5},
        {"batch_size": 0},
        {"test_count": 0},
        {"seed": -1},
        {"train_file": "a.csv"},
        {"validation_file": "a.csv"},
        {"test_files": {"hard": "a.csv"}},
        {"check": "rules"},
        {"test_guesses": 0},
        {"train_file": "a.csv", "validation_file": "b.csv", "test_guesses": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SudokuDataModule(**settings)


def test_a_hard_set_needs_guesses_and_leaves_the_other_tests_as_they_are() -> None:
    plain, data = SudokuDataModule(**SMALL), SudokuDataModule(**{**SMALL, "test_guesses": 1})
    assert data.test_names == [*plain.test_names, "hard"]
    data.prepare()
    plain.prepare()
    hard = data.sets["hard"]
    assert len(hard.puzzles) == 2
    assert all(count_guesses(puzzle, 6) for puzzle in hard.puzzles)
    assert ((hard.puzzles > 0).sum(1) == 14).all()  # the fewest of the test sets
    assert all((data.sets[name].puzzles == plain.sets[name].puzzles).all() for name in plain.test_names)
    assert data.shared == 0


def test_a_hard_set_of_a_collection(tmp_path: Path) -> None:
    parts = [generate(6, 10, 30, seed=0), generate(6, 10, 4, seed=1, guesses=2)]
    boards = SudokuSet(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    path = str(tmp_path / "few.csv")
    write_csv(path, *boards)
    settings = {**SMALL, "collection": path, "train_count": 50, "train_givens": (10, 20), "test_givens": (10,)}
    plain, data = SudokuDataModule(**settings), SudokuDataModule(**settings, test_guesses=2)
    plain.prepare()
    data.prepare()
    hard = data.sets["hard"]
    assert min(count_guesses(puzzle, 6) for puzzle in hard.puzzles) >= 2
    assert {row.tobytes() for row in hard.puzzles} <= {row.tobytes() for row in boards.puzzles}
    for name in ("validation", "givens_10"):
        assert (data.sets[name].puzzles == plain.sets[name].puzzles).all()
    assert len(data.sets["train"].puzzles) == len(plain.sets["train"].puzzles) - 2
    assert data.shared == 0
    with pytest.raises(
        InputError, match=r"Only 0 of 2\d puzzles of the collection need 50 guesses or more with 10 givens, but 2"
    ):
        SudokuDataModule(**settings, test_guesses=50).prepare()


def test_files_are_checked_as_asked(tmp_path: Path) -> None:
    path = str(tmp_path / "a.csv")
    Path(path).write_text("1000000000000000,1234341221434321\n")
    files: dict[str, Any] = {"size": 4, "train_file": path, "validation_file": path}
    with pytest.warns(UserWarning, match="1 solution grid"):
        assert len(SudokuDataModule(**files, check="rules").train_dataloader().dataset) == 1  # type: ignore[arg-type]
    with pytest.raises(InputError, match="several"):
        SudokuDataModule(**files).prepare()


def test_impossible_puzzles_and_missing_files_are_refused() -> None:
    with pytest.raises(InputError, match="givens"):
        SudokuDataModule(**{**SMALL, "test_givens": (3,)}).prepare()
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        SudokuDataModule(6, train_file="nowhere.csv", validation_file="nowhere.csv").prepare()
