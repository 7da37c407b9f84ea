"""More puzzles from few: other labels, other orders of lines, further cells revealed; and splits of a collection.

Boards are rows (cells,) of digits, 0 where empty, as in ``ebt.problems.sudoku.boards``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.sudoku.generator import BOXES, SudokuSet, canonical

Givens = int | tuple[int, int]


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


def split_collection(
    collection: SudokuSet,
    size: int,
    train: int,
    others: Mapping[str, tuple[int, Givens]],
    seed: int,
) -> dict[str, SudokuSet]:
    """Sets of a collection of puzzles, of which no two share a solution grid, in any labelling (Palm et al. 2018).

    Args:
        collection: puzzles with few givens.
        size: of the boards.
        train: puzzles to train on, as they are; fewer if the collection has no more.
        others: for each other set its number of puzzles and how many givens they get, revealed at random.
        seed: of the order, and of what is revealed.

    Raises:
        InputError: the collection is too small.
    """
    keys = [grid.tobytes() for grid in canonical(collection.solutions, size)]
    groups: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    generator = torch.Generator().manual_seed(seed)
    order = [list(groups.values())[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
    asked = sum(count for count, _ in others.values())
    if asked >= len(order):
        raise InputError(f"{asked} puzzles to evaluate on, of a collection of {len(order)} grids: ask for fewer.")
    sets, first = {}, 0
    for name, (count, givens) in others.items():
        rows = [group[0] for group in order[first : first + count]]
        sets[name] = _revealed(SudokuSet(collection.puzzles[rows], collection.solutions[rows]), givens, generator)
        first += count
    rows = [i for group in order[first:] for i in group][:train]
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
