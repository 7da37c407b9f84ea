"""More puzzles from few: other labels, other orders of lines, further cells revealed; and splits of a collection.

Boards are rows (cells,) of digits, 0 where empty, as in ``ebt.problems.sudoku.boards``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.sudoku.generator import BOXES, Givens, SudokuSet, canonical


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


def reveal(puzzle: Tensor, solution: Tensor, givens: int, generator: torch.Generator) -> Tensor:
    """The puzzle (cells,) with random further cells of its solution, until it has so many givens (or more from the start)."""
    empty = (puzzle == 0).nonzero().flatten()
    more = max(0, givens - (len(puzzle) - len(empty)))
    chosen = empty[torch.randperm(len(empty), generator=generator)[:more]]
    return puzzle.index_copy(0, chosen, solution[chosen])


def grid_keys(grids: npt.ArrayLike, size: int, lines: bool = False) -> npt.NDArray[Any]:
    """A key for each full grid (n, cells), equal for grids that differ in the labels of their digits only.

    With ``lines`` it is equal, too, for grids that any ``line_orders`` turn into each other. It is then made of the cycles of
    the permutation between every two lines, which tell all classes of 4x4 and 6x6 apart, and those of 9x9 but for chance.
    """
    boards = np.ascontiguousarray(grids).reshape(-1, size * size)
    parts = np.array_split(boards, len(boards) // 256 + 1)
    if not lines:
        return np.concatenate([canonical(part, size).view(f"S{size * size}")[:, 0] for part in parts])
    return np.concatenate([_symmetry_keys(part.reshape(-1, size, size) - 1) for part in parts])


def _symmetry_keys(grids: npt.NDArray[np.int8]) -> npt.NDArray[np.uint64]:
    high, wide = BOXES[grids.shape[-1]]
    sides = [_side(grids, high, wide), _side(grids.swapaxes(1, 2), wide, high)]
    for turned, band in ((grids, high), (grids.swapaxes(1, 2), wide)):
        places = turned.argsort(axis=2).astype(np.int8)
        sides.append(_side(places.swapaxes(1, 2), 1, band))  # of a digit and a line: where in the line it stands
    rows, columns = sides[0] + _mix(sides[2]), sides[1] + _mix(sides[3])
    return rows + columns if high == wide else rows + _mix(columns)  # a transposition exchanges the two


def _side(grids: npt.NDArray[np.int8], band: int, box: int) -> npt.NDArray[np.uint64]:
    """A number for what rows have in common, whatever the order of lines and bands, and the labels."""
    count, size, _ = grids.shape
    here = np.arange(size)
    places = grids.argsort(axis=2)
    pairs = np.take_along_axis(places[:, None], grids[:, :, None].astype(np.int64), axis=3)  # where row j has what row i has
    walk, pair = pairs, np.zeros((count, size, size), dtype=np.uint64)
    for _ in range(4):  # steps along the cycles, which come back to a column, or to its box
        back, near = (walk == here).sum(3), (walk // box == here // box).sum(3)
        pair = _mix(pair * np.uint64(100) + (back * 10 + near).astype(np.uint64))
        walk = np.take_along_axis(pairs, walk, axis=3)
    same = (here[:, None] // band == here // band).astype(np.uint64)
    row = np.zeros((count, size), dtype=np.uint64)
    for _ in range(3):  # a row knows its pairs, then the rows of its pairs
        row = _mix(row + _mix(pair + same + _mix(row)[:, None]).sum(2))
    return _mix(row.reshape(count, -1, band).sum(2)).sum(1)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scrambled numbers, so that sums of them can stand for sets (SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shared_grids(sets: Mapping[str, SudokuSet], size: int, lines: bool) -> int:
    """Grids of the set ``train`` that occur in another one, in any labelling and, with ``lines``, in any order of lines."""
    others = [grid_keys(boards.solutions, size, lines) for name, boards in sets.items() if name != "train"]
    train = sets["train"].solutions
    shared = train[np.isin(grid_keys(train, size, lines), np.concatenate(others))]
    return len(np.unique(grid_keys(shared, size))) if len(shared) else 0


def split_collection(
    collection: SudokuSet,
    size: int,
    train: int,
    others: Mapping[str, tuple[int, Givens]],
    seed: int,
    lines: bool = False,
) -> dict[str, SudokuSet]:
    """Sets of a collection of puzzles, of which no two share a solution grid, in any labelling (Palm et al. 2018).

    Args:
        collection: puzzles with few givens.
        size: of the boards.
        train: puzzles to train on, as they are; fewer if the collection has no more.
        others: for each other set its number of puzzles and how many givens they get, revealed at random.
        seed: of the order, and of what is revealed.
        lines: nor in any order of the lines, for training that permutes them.

    Raises:
        InputError: the collection is too small.
    """
    _, firsts, kinds = np.unique(grid_keys(collection.solutions, size, lines), return_index=True, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    order = np.sort(firsts)[torch.randperm(len(firsts), generator=generator).numpy()]  # the first puzzle of each grid
    asked = sum(count for count, _ in others.values())
    if asked >= len(order):
        raise InputError(f"{asked} puzzles to evaluate on, of a collection of {len(order)} grids: ask for fewer.")
    sets, start = {}, 0
    for name, (count, givens) in others.items():
        rows = order[start : start + count]
        sets[name] = _revealed(SudokuSet(collection.puzzles[rows], collection.solutions[rows]), givens, generator)
        start += count
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[kinds[order]] = np.arange(len(order))
    rows = np.argsort(rank[kinds], kind="stable")
    rows = rows[rank[kinds[rows]] >= start][:train]
    return {**sets, "train": SudokuSet(collection.puzzles[rows], collection.solutions[rows])}


def _revealed(boards: SudokuSet, givens: Givens, generator: torch.Generator) -> SudokuSet:
    puzzles = [
        reveal(torch.from_numpy(puzzle), torch.from_numpy(solution), draw(givens, generator), generator).numpy()
        for puzzle, solution in zip(boards.puzzles, boards.solutions, strict=True)
    ]
    return SudokuSet(np.stack(puzzles), boards.solutions)


def draw(givens: Givens, generator: torch.Generator) -> int:
    """A number of givens, one of a range each as likely."""
    if isinstance(givens, int):
        return givens
    return int(torch.randint(givens[0], givens[1] + 1, (), generator=generator))
