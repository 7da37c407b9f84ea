"""Sudoku puzzles as batches: generated, or from CSV files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
from ebt.training.sampling import EpochSampler, ResumableData, ResumableLoader


def line_orders(size: int, generator: torch.Generator) -> Tensor:
    """A random symmetry of the rules, as an order of the cells (cells,).

    Lines change places within their band, bands among themselves, in both directions; square boxes allow a transposition, too.
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
    """Boards with their digits relabelled, each at random: the same batch of tensors (B, cells) of digits 0..size.

    A board has one permutation in all tensors of the batch, so a puzzle and its solution stay a pair; 0 stays 0.
    InputError if the tensors differ in shape or are no boards.
    """
    shapes = sorted({tuple(boards.shape) for boards in batch.values()})
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise InputError(f"batch has tensors of shapes {shapes}: give at least one, all of one shape (B, cells).")
    count, size = shapes[0][0], size_of(shapes[0][1])
    order = torch.rand(count, size, generator=generator, device=generator.device).argsort(dim=1)
    labels = torch.nn.functional.pad(order + 1, (1, 0))  # 0 stays 0
    return {name: labels.to(boards.device).gather(1, boards.long()).to(boards.dtype) for name, boards in batch.items()}


class SudokuDataset(Dataset[dict[str, Tensor]]):
    """Items dict(puzzle, solution), int64 (cells,), from `puzzles` and `solutions` (n, cells).

    With `permute_digits` the digits of an item are relabelled, with `permute_lines` rows, columns and their bands change
    places, and with `givens` further cells are revealed, up to a number drawn from that range. All depend on (seed, epoch,
    index) alone, whatever the worker or the order: training can be repeated and resumed. Call `set_epoch` before each epoch.
    InputError if a solution does not solve its puzzle, unless `check` is off, or seed < 0.
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
        if seed < 0:
            raise InputError(f"seed = {seed} is negative: give 0 or more.")
        pair = check_pair(puzzles, solutions, size, check)
        self.puzzles, self.solutions = torch.from_numpy(pair.puzzles), torch.from_numpy(pair.solutions)
        self.size, self.permute_digits, self.seed = size, permute_digits, seed
        self.permute_lines, self.givens = permute_lines, givens
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # so that persistent workers see a new epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutations of epoch `epoch` (0 or more)."""
        if epoch < 0:
            raise InputError(f"epoch = {epoch} is negative: give 0 or more.")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.puzzles)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = {"puzzle": self.puzzles[index].long(), "solution": self.solutions[index].long()}
        if not (self.permute_digits or self.permute_lines or self.givens):
            return item
        key = np.random.SeedSequence((self.seed, int(self._epoch), index % len(self))).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(key[0] >> 1))
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
    """Batches of boards: dict(`puzzle` (B, C), `solution` (B, C)), int64 digits, 0 where a cell of a puzzle is empty.

    Puzzles are generated, training, validation and test sets without a common solution grid; taken from a collection, likewise;
    or read from files, one for each set. The order of training batches and the permutations depend on the seed and the epoch
    alone, and a checkpoint written in the middle of an epoch resumes with the next batch.

    Args:
        size: 4, 6 or 9.
        train_count, train_givens: number of training puzzles, and the fewest and most givens that one has.
        validation_count, validation_givens: the same for validation; as many givens as in training by default.
        test_count, test_givens: puzzles in each test set; one set, `givens_N`, for each number of givens.
        collection: a file of puzzles with few givens; training puzzles are drawn from it, and all sets get as many givens
            as they should have by revealing further cells, in training anew in each epoch. No two sets share a grid, up to
            everything that training permutes.
        train_file, validation_file, test_files: files (`ebt.problems.sudoku.boards.read_csv`) instead of all generated sets;
            test files by the name of the set.
        batch_size, evaluation_batch_size: B, per process; evaluation takes `batch_size` by default.
        seed: of the puzzles, the order and the permutations.
        permute_digits: relabel the digits of each training puzzle at random in each epoch.
        permute_lines: let rows, columns and bands of each training puzzle change places at random in each epoch.
        num_workers: processes that prepare batches.
        check: how puzzles of files are checked, `unique`, `rules` or `none` (see `read_csv`); by default `unique`, beyond
            10,000 puzzles and in a collection `rules`.

    Raises:
        InputError: by `__init__` for settings that contradict each other; by `prepare` for files that cannot be read and
            puzzles that cannot be made.
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
            raise InputError("Files replace all generated puzzles: give train_file and validation_file together, or no file.")
        if collection is not None and train_file is not None:
            raise InputError("collection and train_file both say which puzzles to train on: give one of them.")
        if check is not None and collection is None and train_file is None:
            raise InputError("check says how files are checked, and puzzles are generated: leave it out.")
        self.collection, self.check = collection, check
        self.permute_digits, self.permute_lines = permute_digits, permute_lines
        self.counts = {
            "train": (train_count, tuple(train_givens)),
            "validation": (validation_count, tuple(validation_givens or train_givens)),
            **{f"givens_{givens}": (test_count, givens) for givens in test_givens},
        }
        self.files: dict[str, str] = dict(test_files or {})
        if train_file is not None and validation_file is not None:
            self.files = {"train": train_file, "validation": validation_file, **self.files}
        self.sets: dict[str, SudokuSet] = {}
        self.shared = 0

    @property
    def test_names(self) -> list[str]:
        """The names of the test sets, in the order of their loaders."""
        return [name for name in (self.files or self.counts) if name not in ("train", "validation")]

    def prepare(self) -> None:
        """Generate or read all puzzles, once; any later call returns at once. Warns of grids that are not held out."""
        if self.sets:
            return
        counts: dict[str, Any] = dict(self.counts)
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
                f"{self.shared} solution grid(s) of the training set occur in evaluation, too, up to relabelling of the digits"
                f"{order}: results there are not on unseen grids.",
                stacklevel=2,
            )

    def prepare_data(self) -> None:
        """Nothing to download."""

    def statistics(self) -> dict[str, Any]:
        """What the data are: size, and for each set the number of puzzles and the range of givens."""
        self.prepare()
        givens = {name: (boards.puzzles > 0).sum(1) for name, boards in self.sets.items()}
        return {
            "size": self.size,
            "puzzles": {name: len(count) for name, count in givens.items()},
            "givens": {name: [int(count.min()), int(count.max())] for name, count in givens.items()},
            "shared_grids": self.shared,
        }

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is left out, unless it is the only one."""
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
