"""Mazes as batches: generated, or from text files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ebt.errors import InputError
from ebt.problems.mazes.generator import EXCHANGED, generate, keys, turned
from ebt.problems.mazes.grids import MazeSet, check_size, joined, read_mazes, unframed
from ebt.problems.mazes.metrics import rows_at_once
from ebt.training.sampling import EpochSampler, ResumableData, ResumableLoader, VariedDataset


class MazeDataset(VariedDataset):
    """Items dict(maze, path), int64 (C,).

    ``turn`` turns and mirrors a maze at random, and exchanges its start and goal. This depends only on (seed, epoch, index), so
    that training can be repeated and resumed. Call ``set_epoch`` before each epoch.
    """

    def __init__(self, mazes: MazeSet, turn: bool = False, seed: int = 0) -> None:
        super().__init__(seed)
        self.mazes, self.turn = mazes, turn

    def __len__(self) -> int:
        return len(self.mazes.mazes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        maze, path = (part[index, None] for part in self.mazes)
        if self.turn:
            way, exchange = divmod(int(torch.randint(16, (), generator=self.generator(index))), 2)
            maze, path = turned(EXCHANGED[maze] if exchange else maze, way), turned(path, way)
        return {"maze": torch.from_numpy(maze).long().flatten(), "path": torch.from_numpy(path).long().flatten()}


class MazeDataModule(ResumableData):
    """Batches of mazes: dict(``maze`` (B, C), ``path`` (B, C)), int64.

    Mazes are generated, or read from one file per set. No generated maze of the training set is in another set, up to turning,
    mirroring, and exchanging start and goal. Within a set, smaller mazes are surrounded with walls. The order of training
    batches and the symmetries depend only on the seed and the epoch. A checkpoint saved within an epoch resumes with the next
    batch.

    Args:
        train_sizes: Numbers of squares on a side of training and validation mazes, odd, from 7 to 31.
        train_count: Number of training mazes, of all sizes together.
        validation_count: Number of validation mazes, of all sizes together.
        test_sizes: Sizes of the test mazes. There is one set, ``size_N``, per size.
        test_count: Number of mazes in each test set.
        train_file, validation_file, test_files: Text files (``ebt.problems.mazes.grids.read_mazes``) instead of all generated
            sets. Test files are given by the name of the set.
        batch_size: B, per process.
        evaluation_batch_size: B in evaluation for mazes up to 15 x 15 squares, and fewer for larger ones, as memory grows with
            the fourth power of their size. Default: ``batch_size``.
        seed: Seed of the mazes, the order and the symmetries.
        turn: Whether to turn and mirror each training maze, and exchange its start and goal, at random in each epoch.
        num_workers: Number of processes that prepare batches.

    Raises:
        InputError: By ``__init__`` if settings are invalid. By ``prepare`` if files cannot be read or there are too few mazes.
    """

    def __init__(
        self,
        train_sizes: Sequence[int] = (9, 11),
        train_count: int = 8000,
        validation_count: int = 200,
        test_sizes: Sequence[int] = (9, 15, 21),
        test_count: int = 200,
        train_file: str | None = None,
        validation_file: str | None = None,
        test_files: Mapping[str, str] | None = None,
        batch_size: int = 32,
        evaluation_batch_size: int | None = None,
        seed: int = 0,
        turn: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size, self.seed, self.turn, self.num_workers = batch_size, seed, turn, num_workers
        self.evaluation_batch_size = batch_size if evaluation_batch_size is None else evaluation_batch_size
        if min(self.batch_size, self.evaluation_batch_size, test_count) < 1:
            raise InputError("batch_size, evaluation_batch_size and all counts of mazes must be at least 1.")
        if not train_sizes or min(train_count, validation_count) < len(train_sizes):
            raise InputError(
                f"train_sizes is {list(train_sizes)}, train_count {train_count} and validation_count {validation_count}: give "
                "one or more sizes, and at least one maze of each."
            )
        if seed < 0 or num_workers < 0:
            raise InputError(f"seed={seed} and num_workers={num_workers} must not be negative. Give 0 or more.")
        if (train_file is None) != (validation_file is None) or (test_files and train_file is None):
            raise InputError("Files replace all generated mazes: give both train_file and validation_file, or no file.")
        self.sizes = tuple(sorted({check_size(size) for size in train_sizes}))
        self.counts = {"validation": validation_count, "train": train_count}
        self.tests = {f"size_{check_size(size)}": (size, test_count) for size in test_sizes}
        self.files: dict[str, str] = dict(test_files or {})
        if train_file is not None and validation_file is not None:
            self.files = {"train": train_file, "validation": validation_file, **self.files}
        self.sets: dict[str, MazeSet] = {}
        self.taken: set[bytes] = set()
        """Keys of all mazes of all sets, before walls are put around them."""

    @property
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of their loaders."""
        return [name for name in (self.files or self.tests) if name not in ("train", "validation")]

    def prepare(self) -> None:
        """Generate or read all mazes. Later calls return at once."""
        if self.sets:
            return
        if self.files:
            self.sets = {name: read_mazes(path) for name, path in self.files.items()}
            self.taken = {key for part in self.sets.values() for maze in part.mazes for key in keys(unframed(maze)[None])}
            return
        plans = [(name, 0, [plan]) for name, plan in self.tests.items()]
        for role, (name, count) in enumerate(self.counts.items(), 1):
            plans.append((name, role, list(zip(self.sizes, _shares(count, len(self.sizes)), strict=True))))
        for name, role, plan in plans:  # training mazes come last, so that their number does not change the other sets
            parts = [generate(size, count, (self.seed, role, size), self.taken) for size, count in plan]
            self.taken.update(key for part in parts for key in keys(part.mazes))
            self.sets[name] = joined(parts)

    def prepare_data(self) -> None:
        """There is nothing to download."""

    def statistics(self) -> dict[str, Any]:
        """Describe the data: the number of mazes, their squares on a side, and the mean length of paths of each set."""
        self.prepare()
        return {
            "mazes": {name: len(part.mazes) for name, part in self.sets.items()},
            "size": {name: part.mazes.shape[1] for name, part in self.sets.items()},
            "path": {name: float(part.paths.sum((1, 2)).mean()) for name, part in self.sets.items()},
        }

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is dropped, unless it is the only one."""
        self.prepare()
        return self.training_loader(MazeDataset(self.sets["train"], self.turn, self.seed), EpochSampler)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Batches in the order of the set."""
        return self._held_out("validation")

    def test_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        """One loader for each of ``test_names``."""
        if not self.test_names:
            raise InputError("There are no test mazes: give test_sizes, or test_files with train_file.")
        return [self._held_out(name) for name in self.test_names]

    def _held_out(self, name: str) -> DataLoader[dict[str, Tensor]]:
        self.prepare()
        chosen = self.sets[name]
        rows = rows_at_once(self.evaluation_batch_size, chosen.mazes.shape[1])
        return self.evaluation_loader(MazeDataset(chosen), rows)


def _shares(count: int, parts: int) -> list[int]:
    """Divide a count into nearly equal parts."""
    return [count // parts + (i < count % parts) for i in range(parts)]
