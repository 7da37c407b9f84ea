"""Sudoku puzzles as batches: generated, or from CSV files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ebt.errors import InputError
from ebt.problems.sudoku.boards import Check, check_pair, read_csv
from ebt.problems.sudoku.generator import (
    BOXES,
    SudokuSet,
    check_size,
    draw,
    make_splits,
    reveal,
    shared_grids,
    size_of,
    split_collection,
)
from ebt.training.sampling import EpochSampler, ResumableData, ResumableLoader, VariedDataset


def line_orders(size: int, generator: torch.Generator) -> Tensor:
    """Draw a random symmetry of the rules as an order of the cells (cells,).

    Lines are permuted within their band, and bands among themselves, in both directions. Square boxes may also be transposed.
    """
    high, wide = BOXES[size]
    rows, columns = _shuffled(size, high, generator), _shuffled(size, wide, generator)
    cells = rows[:, None] * size + columns
    turn = high == wide and bool(torch.randint(2, (), generator=generator))
    return (cells.T if turn else cells).flatten()


def _shuffled(size: int, band: int, generator: torch.Generator) -> Tensor:
    bands = torch.randperm(size // band, generator=generator)
    return torch.cat([b * band + torch.randperm(band, generator=generator) for b in bands])


def permute_digits(batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Relabel the digits of each board of a batch at random: tensors (B, cells) of digits 0..size.

    A board has the same permutation in all tensors, so a puzzle still matches its solution. 0 stays 0. Raises ``InputError`` if
    the tensors differ in shape or are not boards.
    """
    shapes = sorted({tuple(boards.shape) for boards in batch.values()})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InputError(f"batch has tensors of shapes {shapes}: give at least one, all of one shape (B, cells).")
    count, size = shapes[0][0], size_of(shapes[0][1])
    order = torch.rand(count, size, generator=generator, device=generator.device).argsort(dim=1)
    labels = torch.nn.functional.pad(order + 1, (1, 0))  # 0 stays 0
    return {name: labels.to(boards.device).gather(1, boards.long()).to(boards.dtype) for name, boards in batch.items()}


class SudokuDataset(VariedDataset):
    """Items dict(puzzle, solution), int64 (cells,), from `puzzles` and `solutions` (n, cells).

    `permute_digits` relabels the digits of an item. `permute_lines` permutes rows, columns and their bands. `givens` reveals
    cells, up to a number drawn from that range. All depend only on (seed, epoch, index), so that training can be repeated and
    resumed. Call `set_epoch` before each epoch. Raises ``InputError`` if a solution does not solve its puzzle, unless `check`
    is off, or if seed < 0.
    """

    def __init__(
        self,
        puzzles: npt.ArrayLike,
        solutions: npt.ArrayLike,
        size: int,
        permute_digits: bool = False,
        seed: int = 0,
        permute_lines: bool = False,
        givens: tuple[int, int] | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(seed)
        pair = check_pair(puzzles, solutions, size, check)
        self.puzzles, self.solutions = torch.from_numpy(pair.puzzles), torch.from_numpy(pair.solutions)
        self.size, self.permute_digits, self.permute_lines, self.givens = size, permute_digits, permute_lines, givens

    def __len__(self) -> int:
        return len(self.puzzles)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = {"puzzle": self.puzzles[index].long(), "solution": self.solutions[index].long()}
        if not (self.permute_digits or self.permute_lines or self.givens):
            return item
        generator = self.generator(index)
        if self.permute_digits:
            batch = permute_digits({name: board[None] for name, board in item.items()}, generator)
            item = {name: boards[0] for name, boards in batch.items()}
        if self.permute_lines:
            order = line_orders(self.size, generator)
            item = {name: board[order] for name, board in item.items()}
        if self.givens:
            item["puzzle"] = reveal(item["puzzle"], item["solution"], draw(self.givens, generator), generator)
        return item


class SudokuDataModule(ResumableData):
    """Batches of boards: dict(`puzzle` (B, C), `solution` (B, C)), int64 digits, 0 at empty cells of a puzzle.

    Puzzles are generated, drawn from a collection, or read from one file per set. Generated and drawn sets share no solution
    grid. The order of training batches and the permutations depend only on the seed and the epoch. A checkpoint saved within an
    epoch resumes with the next batch.

    Args:
        size: 4, 6 or 9.
        train_count, train_givens: Number of training puzzles, and the range of their numbers of givens.
        validation_count, validation_givens: The same for validation. The givens are those of training by default.
        test_count, test_givens: Number of puzzles in each test set. There is one set, `givens_N`, per number of givens.
        test_guesses: If given, there is one more test set, `hard`, of puzzles that need search: at least this many guesses
            (`ebt.problems.sudoku.generator.count_guesses`), with the fewest of `test_givens`, or of `train_givens` without.
        collection: File of puzzles with few givens, from which all sets are drawn. Further cells are revealed to reach the
            numbers of givens, in training anew in each epoch. No two sets share a grid, up to the permutations of training.
        train_file, validation_file, test_files: Files (`ebt.problems.sudoku.boards.read_csv`) instead of all generated sets.
            Test files are given by the name of the set.
        batch_size, evaluation_batch_size: B, per process. Evaluation uses `batch_size` by default.
        seed: Seed of the puzzles, the order and the permutations.
        permute_digits: Whether to relabel the digits of each training puzzle at random in each epoch.
        permute_lines: Whether to permute rows, columns and bands of each training puzzle at random in each epoch.
        num_workers: Number of processes that prepare batches.
        check: How puzzles of files are checked, `unique`, `rules` or `none` (see `read_csv`). The default is `unique`, or
            `rules` beyond 10,000 puzzles and for a collection.

    Raises:
        InputError: By `__init__` if settings contradict each other. By `prepare` if files cannot be read or puzzles cannot be
            made.
    """

    def __init__(
        self,
        size: int = 6,
        train_count: int = 4000,
        train_givens: tuple[int, int] = (14, 20),
        validation_count: int = 200,
        validation_givens: tuple[int, int] | None = None,
        test_count: int = 200,
        test_givens: Sequence[int] = (10, 12, 14, 17, 20),
        test_guesses: int | None = None,
        collection: str | None = None,
        train_file: str | None = None,
        validation_file: str | None = None,
        test_files: Mapping[str, str] | None = None,
        batch_size: int = 64,
        evaluation_batch_size: int | None = None,
        seed: int = 0,
        permute_digits: bool = True,
        permute_lines: bool = False,
        num_workers: int = 0,
        check: Check | None = None,
    ) -> None:
        super().__init__()
        self.size, self.batch_size, self.seed, self.num_workers = check_size(size), batch_size, seed, num_workers
        self.evaluation_batch_size = batch_size if evaluation_batch_size is None else evaluation_batch_size
        if min(self.batch_size, self.evaluation_batch_size, train_count, validation_count, test_count) < 1:
            raise InputError("batch_size, evaluation_batch_size and all counts of puzzles must be at least 1.")
        if seed < 0 or num_workers < 0:
            raise InputError(f"seed={seed} and num_workers={num_workers} must not be negative. Give 0 or more.")
        if (train_file is None) != (validation_file is None) or (test_files and train_file is None):
            raise InputError("Files replace all generated puzzles: give both train_file and validation_file, or no file.")
        if collection is not None and train_file is not None:
            raise InputError("collection and train_file are both sources of training puzzles: give one of them.")
        if test_guesses is not None and (test_guesses < 1 or train_file is not None):
            raise InputError(
                f"test_guesses={test_guesses} makes a set of drawn puzzles that need so many: give 1 or more, and no files."
            )
        if check is not None and collection is None and train_file is None:
            raise InputError("check is for puzzles of files, but puzzles are generated: leave it out.")
        self.collection, self.check = collection, check
        self.permute_digits, self.permute_lines = permute_digits, permute_lines
        self.counts: dict[str, Any] = {
            "train": (train_count, tuple(train_givens)),
            "validation": (validation_count, tuple(validation_givens or train_givens)),
            **{f"givens_{givens}": (test_count, givens) for givens in test_givens},
        }
        if test_guesses is not None:
            self.counts["hard"] = (test_count, min(test_givens or train_givens), test_guesses)
        self.files: dict[str, str] = dict(test_files or {})
        if train_file is not None and validation_file is not None:
            self.files = {"train": train_file, "validation": validation_file, **self.files}
        self.sets: dict[str, SudokuSet] = {}
        self.shared = 0

    @property
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of their loaders."""
        return [name for name in (self.files or self.counts) if name not in ("train", "validation")]

    def prepare(self) -> None:
        """Generate or read all puzzles, and warn of grids that are not held out. Later calls return at once."""
        if self.sets:
            return
        counts = dict(self.counts)
        train, validation = counts.pop("train"), counts["validation"]
        if self.files:
            self.sets = {name: read_csv(path, self.size, self.check) for name, path in self.files.items()}
        elif self.collection is not None:
            boards = read_csv(self.collection, self.size, self.check or "rules")
            self.sets = split_collection(boards, self.size, train[0], counts, self.seed, self.permute_lines)
        else:
            tests = {name: counts[name] for name in self.test_names}
            self.sets = make_splits(self.size, train, tests, self.seed, validation)
        self.shared = shared_grids(self.sets, self.size, self.permute_lines)
        if self.shared:
            order = " and another order of lines, which permute_lines trains on" if self.permute_lines else ""
            warnings.warn(
                f"{self.shared} solution grid(s) of the training set also occur in evaluation, up to relabelling of the digits"
                f"{order}: these results are not on unseen grids.",
                stacklevel=2,
            )

    def prepare_data(self) -> None:
        """There is nothing to download."""

    def statistics(self) -> dict[str, Any]:
        """Describe the data: size, and the number of puzzles and the range of givens of each set."""
        self.prepare()
        givens = {name: (boards.puzzles > 0).sum(1) for name, boards in self.sets.items()}
        return {
            "size": self.size,
            "puzzles": {name: len(count) for name, count in givens.items()},
            "givens": {name: [int(count.min()), int(count.max())] for name, count in givens.items()},
            "shared_grids": self.shared,
        }

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is dropped, unless it is the only one."""
        self.prepare()
        givens: Any = self.counts["train"][1] if self.collection is not None else None
        dataset = SudokuDataset(
            *self.sets["train"], self.size, self.permute_digits, self.seed, self.permute_lines, givens, check=False
        )
        return self.training_loader(dataset, EpochSampler)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches in the order of the set."""
        return self._held_out("validation")

    def test_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """One loader for each of `test_names`."""
        if not self.test_names:
            raise InputError("There are no test puzzles: give test_givens, or test_files with train_file.")
        return [self._held_out(name) for name in self.test_names]

    def _held_out(self, name: str) -> DataLoader[dict[str, Tensor]]:
        self.prepare()
        return self.evaluation_loader(SudokuDataset(*self.sets[name], self.size, check=False))
