"""Sudoku of 4x4, 6x6 and 9x9: exact solver, puzzles with an exact number of givens, and sets without common grids.

A board is a row-major int8 array (cells,), a set of boards is (n, cells). 0 is an empty cell, digits are 1..size.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, islice, permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.sudoku.configuration import BOXES

Boards = npt.NDArray[np.int8]
Givens = int | tuple[int, int]
Wanted = tuple[int, Givens] | tuple[int, Givens, int]
"""Number of puzzles of a set, of their givens, and of the guesses that they need at least."""

FEWEST_GIVENS = {4: 4, 6: 8, 9: 24}  # 4 and 8 are the minimum for uniqueness; 9x9 below 24 takes too long
GRID_CLASSES = {4: 12, 6: 39_168, 9: 18_383_222_420_692_992}  # full grids up to relabelling of the digits
ORDERS_PER_GRID = 50  # orders of emptying cells tried before a grid is skipped
BARREN_GRIDS = 200  # grids skipped in a row before the generator gives up


class SudokuSet(NamedTuple):
    """Puzzles and their unique solutions, both int8 (n, cells)."""

    puzzles: Boards
    solutions: Boards

    def take(self, rows: npt.NDArray[np.int64]) -> SudokuSet:
        """Select puzzles by index."""
        return SudokuSet(self.puzzles[rows], self.solutions[rows])


@cache
def units(size: int) -> npt.NDArray[np.int64]:
    """Return the cells of every row, column and box, in this order: (3 * size, size)."""
    high, wide = BOXES[size]
    board = np.arange(size * size).reshape(size, size)
    boxes = board.reshape(size // high, high, size // wide, wide).swapaxes(1, 2).reshape(size, size)
    return np.concatenate([board, board.T, boxes])


def size_of(cells: int, where: str = "") -> int:
    """Return the board size for a number of cells. Raises ``InputError``, with the prefix `where`, if there is none."""
    if (size := math.isqrt(cells)) in BOXES and size * size == cells:
        return size
    raise InputError(f"{where}A board of {cells} cells is not supported: give one of 16 (4x4), 36 (6x6) or 81 (9x9) cells.")


def check_size(size: int) -> int:
    """Return `size` if it is 4, 6 or 9, else raise ``InputError``."""
    if size not in BOXES:
        raise InputError(f"Sudoku size {size} is not supported: give 4, 6 or 9.")
    return size


def check_boards(boards: npt.ArrayLike, size: int, name: str = "boards", one: bool = False) -> Boards:
    """Check size, shape and digits of `boards` (..., cells), or of one (cells,), and return them as int8."""
    array = np.asarray(boards)
    if one and array.ndim > 1:
        raise InputError(f"{name} has shape {array.shape}: give one board, of shape ({size * size},).")
    check_size(size)
    if array.ndim == 0 or array.shape[-1] != size * size:
        raise InputError(f"{name} has shape {array.shape}: the last axis of a {size}x{size} board must be {size * size}.")
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > size):
        raise InputError(f"{name} must hold integers from 0 (empty) to {size}: correct the other entries.")
    return np.array(array, dtype=np.int8, order="C")


class _Solver:
    """Exact solver. All candidates of a board are the bits of one Python integer: bit (digit - 1) * cells + cell.

    A group is a set of candidates of which exactly one is true: the digits of a cell, or the places of a digit in a row,
    column or box. Shifts count the candidates of all groups of a kind at once (none, one, several). This finds naked
    singles, hidden singles and contradictions of the whole board in about eighty operations.
    """

    def __init__(self, size: int) -> None:
        high, wide = BOXES[size]
        self.size, self.cells = size, size * size
        self.all = (1 << size**3) - 1
        bits = np.arange(size**3).reshape(size, -1)  # by digit and cell
        kinds = [bits.T, *(bits[:, unit].reshape(-1, size) for unit in np.split(units(size), 3))]
        self.groups = [sum(1 << bit for bit in group.tolist()) for kind in kinds for group in kind]  # groups of cells first
        shifts = [(wide, self.cells, high, self.cells * wide), (wide, 1, high, wide), (high, size, wide, size * high)]
        self.kinds = [  # the shifts to the members of a group, in two levels; the first members of all groups; the members
            (
                [near_stride * i for i in range(1, near)],
                [far_stride * i for i in range(1, far)],
                sum(1 << first for first in kind.min(axis=1).tolist()),
                sum(1 << bit for bit in kind[0].tolist()),
            )
            for kind, (near, near_stride, far, far_stride) in zip(kinds, [*shifts, (wide, 1, high, size)], strict=True)
        ]
        self.keep = [self.all] * size**3  # what a candidate leaves: all but the other members of its four groups
        for mask in self.groups:
            for bit in _bits(mask):
                self.keep[bit] &= ~mask | 1 << bit

    def propagate(self, x: int, placed: int) -> tuple[int, int]:
        """Apply all naked and hidden singles to `x`. Returns the result (0 on a contradiction) and the singles applied."""
        while True:
            singles = 0
            for near_shifts, far_shifts, first, members in self.kinds:
                once, twice = x, 0
                for shift in near_shifts:
                    member = x >> shift
                    twice |= once & member
                    once |= member
                near_once, near_twice = once, twice
                for shift in far_shifts:
                    member = near_once >> shift
                    twice |= once & member | near_twice >> shift
                    once |= member
                if first & ~once:
                    return 0, placed
                singles |= (first & ~twice) * members & x
            new = singles & ~placed
            if not new:
                return x, placed
            placed |= new
            while new:
                low = new & -new
                x &= self.keep[low.bit_length() - 1]
                new ^= low

    def search(self, x: int, placed: int, rng: random.Random | None = None) -> Iterator[int]:
        """Yield all solutions within the candidates `x`, as integers. `rng` shuffles the digits tried."""
        stack = [(x, placed)]
        while stack:
            x, placed = self.propagate(*stack.pop())
            if x.bit_count() == self.cells:
                yield x
            elif x:
                tries = self._branches(x)
                if rng:
                    rng.shuffle(tries)
                stack.extend((x & self.keep[bit], placed | 1 << bit) for bit in tries)

    def _branches(self, x: int) -> list[int]:
        """Return the candidates of the open group with the fewest: a cell, or a digit in a row, column or box."""
        best, fewest = 0, self.size + 1
        for mask in self.groups:
            count = (x & mask).bit_count()
            if 1 < count < fewest:
                best, fewest = x & mask, count
                if count == 2:
                    break
        return list(_bits(best))

    def candidates(self, board: list[int]) -> tuple[int, int]:
        """Return the candidates left by the givens of `board`, and the givens, as bits."""
        x, placed = self.all, 0
        for cell, digit in enumerate(board):
            if digit:
                bit = (digit - 1) * self.cells + cell
                x &= self.keep[bit]
                placed |= 1 << bit
        return x, placed

    def board(self, x: int) -> list[int]:
        """Return the digits of a solved `x`."""
        return self.boards([x])[0].tolist()

    def boards(self, found: Sequence[int]) -> Boards:
        """Return the digits (k, cells) of `found`, k solved integers."""
        width = -(-(self.size**3) // 8)
        data = np.frombuffer(b"".join(x.to_bytes(width, "little") for x in found), dtype=np.uint8).reshape(-1, width)
        bits = np.unpackbits(data, axis=1, count=self.size**3, bitorder="little")
        return (bits.reshape(-1, self.size, self.cells).argmax(1) + 1).astype(np.int8)


_solver = cache(_Solver)


def _bits(x: int) -> Iterator[int]:
    """Yield the positions of the set bits, lowest first."""
    while x:
        low = x & -x
        yield low.bit_length() - 1
        x ^= low


def solutions(board: npt.ArrayLike, size: int, limit: int | None = 2) -> Boards:
    """Find up to `limit` solutions (``None`` for all) of one board (cells,). Returns int8 (k, cells), k = 0 without a solution.

    The search is exact: it applies singles, then branches on the cell, or digit of a unit, with the fewest candidates. With
    limit 2, k = 1 proves uniqueness. Raises ``InputError`` for another shape, digits outside 0..size, or limit < 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit = {limit} is too small: give 1 or more, or None for all.")
    solver, digits = _solver(check_size(size)), check_boards(board, size, "board", one=True).tolist()
    return solver.boards(list(islice(solver.search(*solver.candidates(digits)), limit)))


def count_guesses(board: npt.ArrayLike, size: int) -> int:
    """Rate a puzzle (cells,) by the guesses that a plain solver needs. 0 means that singles solve it.

    The solver fills in all naked singles (cells with one possible digit) and hidden singles (digits with one possible place in
    a row, column or box) until there are none. If cells are still open, it guesses: in the cell with the fewest possible
    digits, of several in the first one in reading order, it tries these digits in ascending order, depth first, until the
    board is full. Each digit tried is a guess, wrong or right. Whether a puzzle needs guesses is the same in any labelling of
    the digits and any order of lines; how many it needs depends on both, since they break ties.

    Raises ``InputError`` for another shape, digits outside 0..size, or a board without a solution.
    """
    solver, digits = _solver(check_size(size)), check_boards(board, size, "board", one=True).tolist()
    cells, stack, tried = solver.groups[: solver.cells], [solver.candidates(digits)], -1  # the givens are no guess
    while stack:
        x, placed = solver.propagate(*stack.pop())
        tried += 1
        if x.bit_count() == solver.cells:
            return tried
        if x:
            options = min((x & cell for cell in cells if (x & cell).bit_count() > 1), key=int.bit_count)
            stack.extend((x & solver.keep[bit], placed | 1 << bit) for bit in reversed([*_bits(options)]))
    raise InputError("The board has no solution, so it cannot be rated: check its givens against the source.")


def canonical(grids: npt.ArrayLike, size: int) -> Boards:
    """Relabel full grids (..., cells) so that the first row is 1..size. Grids that differ only in labels become equal.

    Raises ``InputError`` if cells are empty, or the first row does not hold every digit once.
    """
    full = check_boards(grids, size, "grids")
    rows = full.reshape(-1, size * size)
    labels = np.argsort(rows[:, :size], axis=1)
    if not rows.all() or (np.take_along_axis(rows[:, :size], labels, axis=1) != np.arange(1, size + 1)).any():
        raise InputError("grids holds an empty cell or an invalid first row: give full, valid grids (solutions, not puzzles).")
    relabelled = np.take_along_axis(labels + 1, rows.astype(np.int64) - 1, axis=1)
    return relabelled.astype(np.int8).reshape(full.shape)


FIXED_POINTS = {3: 1_408, 1: 1_088, 0: 928}
"""Number of canonical 6x6 grids with a second row, by the number of digits d of 1 to 3 for which the digit below the one below
d is d."""


@cache
def _second_rows(size: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the second rows of canonical grids in the order of the search, and the number of grids up to the end of each. 4x4
    boards have so few grids that they are one block, of all second rows."""
    if size == 4:
        return [()], [GRID_CLASSES[size]]
    rows = [left + right for left in permutations((6, 5, 4)) for right in permutations((3, 2, 1))]
    fixed = [sum(row[row[i] - 1] == i + 1 for i in range(3)) for row in rows]
    return rows, list(accumulate(FIXED_POINTS[count] for count in fixed))


@cache
def _block(size: int, number: int) -> list[list[int]]:
    """Return the canonical full grids of a 4x4 or 6x6 board with a second row."""
    second = _second_rows(size)[0][number]
    given = [*range(1, size + 1), *second]
    return solutions(given + [0] * (size * size - len(given)), size, limit=None).tolist()


def _class(size: int, number: int) -> list[int]:
    """Return one of all canonical full grids, of which only those with the same second row are searched for."""
    ends = _second_rows(size)[1]
    block = bisect_right(ends, number)
    return _block(size, block)[number - ends[block]]  # from the end of the block


def _number(size: int, grid: bytes) -> int | None:
    """Return the number of a canonical grid in `_class`, or ``None`` for a grid that breaks the rules."""
    rows = _second_rows(size)[0]
    row = tuple(grid[size : size + len(rows[0])])
    if row not in rows:
        return None
    return _numbers(size, rows.index(row)).get(grid)


@cache
def _numbers(size: int, block: int) -> dict[bytes, int]:
    """Return the numbers of the grids of a block."""
    grids, end = _block(size, block), _second_rows(size)[1][block]
    return {bytes(grid): number for number, grid in enumerate(grids, end - len(grids))}


def _classes(size: int, rng: random.Random, excluded: set[bytes]) -> Iterator[list[int]]:
    """Yield random canonical grids except `excluded`. None is repeated before all have occurred."""
    if size == 9:
        solver = _solver(size)
        while True:
            grid = solver.board(next(solver.search(*solver.candidates([*range(1, 10)] + [0] * 72), rng)))
            if bytes(grid) not in excluded:
                excluded.add(bytes(grid))
                yield grid
    barred = {_number(size, grid) for grid in excluded}
    pool = [number for number in range(GRID_CLASSES[size]) if number not in barred]
    while pool:
        rng.shuffle(pool)
        yield from (_class(size, number) for number in pool)


def _dig(grid: list[int], givens: int, size: int, rng: random.Random) -> list[int] | None:
    """Empty cells of `grid` in random order while the solution stays unique. ``None`` if more than `givens` are left.

    A cell of a unique board can be emptied if no solution has another digit there. This takes one search, which mostly ends at
    once.
    """
    solver = _solver(size)
    puzzle, left = grid.copy(), solver.cells
    order = list(range(solver.cells))
    rng.shuffle(order)
    for tried, cell in enumerate(order):
        if left == givens or left - (solver.cells - tried) > givens:
            break
        puzzle[cell] = 0
        x, placed = solver.candidates(puzzle)
        other = x & ~(1 << (grid[cell] - 1) * solver.cells + cell)
        if other & solver.groups[cell] and next(solver.search(other, placed), 0):
            puzzle[cell] = grid[cell]
        else:
            left -= 1
    return puzzle if left == givens else None


def _check_order(size: int, givens: Givens, count: int) -> tuple[int, int]:
    """Return the bounds of the givens. Raises ``InputError`` for settings that cannot be met."""
    check_size(size)
    if count < 1:
        raise InputError(f"count = {count} is too small: give 1 or more.")
    bounds = (givens, givens) if isinstance(givens, int) else tuple(givens)
    if len(bounds) != 2 or not FEWEST_GIVENS[size] <= bounds[0] <= bounds[1] <= size * size:
        raise InputError(
            f"givens = {givens} cannot be made for {size}x{size} boards: give a number, or a range (low, high), from"
            f" {FEWEST_GIVENS[size]} to {size * size}."
        )
    return bounds


def generate(
    size: int, givens: Givens, count: int, seed: int, exclude: npt.ArrayLike | None = None, guesses: int = 0
) -> SudokuSet:
    """Generate `count` puzzles with a unique solution and exactly `givens` givens (drawn per puzzle from an inclusive range).

    Solution grids are drawn at random (4x4 and 6x6: uniformly from all grids; 9x9: by a randomised search). They differ
    between puzzles, up to relabelling, as long as there are enough (12 for 4x4, 39,168 for 6x6). No grid of `exclude`
    (solutions (m, cells)) is used in any labelling. The result depends only on the arguments. A larger `count` only
    appends puzzles. Few givens take long: thousands of 6x6 puzzles per second with 10-20 givens, about six with 8.
    With `guesses`, each puzzle needs at least that many (`count_guesses`), which takes longer the rarer such puzzles are.

    Raises ``InputError`` for a size other than 4, 6 or 9, givens below 4, 8 and 24, count < 1, or if `exclude` leaves no
    usable grid, or no puzzle that needs so many guesses is found.
    """
    low, high = _check_order(size, givens, count)
    barred = np.empty(0) if exclude is None else canonical(exclude, size).reshape(-1, size * size)
    rng = random.Random(f"{seed}/{size}")
    grids = _classes(size, rng, {grid.tobytes() for grid in barred})
    made = np.empty((2, count, size * size), dtype=np.int8)
    for i in range(count):
        made[:, i] = _puzzle(grids, rng.randint(low, high), size, rng, guesses)
    return SudokuSet(*made)


def _puzzle(
    grids: Iterator[list[int]], givens: int, size: int, rng: random.Random, guesses: int
) -> tuple[list[int], list[int]]:
    """Make a puzzle with `givens` givens that needs `guesses` from the next usable grid of `grids`, its digits relabelled at
    random."""
    for grid in islice(grids, BARREN_GRIDS):
        labels = [0, *rng.sample(range(1, size + 1), size)]
        for _ in range(ORDERS_PER_GRID):
            if dug := _dig(grid, givens, size, rng):
                puzzle = [labels[digit] for digit in dug]
                if not guesses or count_guesses(puzzle, size) >= guesses:
                    return puzzle, [labels[digit] for digit in grid]
    hard = f" that needs {guesses} guesses or more" if guesses else ""
    raise InputError(
        f"No {size}x{size} puzzle with {givens} givens{hard} found in the grids that are not excluded:"
        f" exclude fewer grids or ask for {'fewer guesses' if guesses else 'more givens'}."
    )


def make_splits(
    size: int, train: tuple[int, Givens], tests: Mapping[str, Wanted], seed: int, validation: tuple[int, Givens] | None = None
) -> dict[str, SudokuSet]:
    """Generate sets of puzzles that share no solution grid, in any labelling of the digits.

    Each set is (count, givens), a test also (count, givens, guesses), see `generate`.
    The result has the keys of `tests`, "validation" if requested, and "train".
    Neither the order of `tests` nor the size of the training set changes the other sets, unless all sets together need more
    puzzles than there are grids (12 for 4x4, 39,168 for 6x6). Then the grids are shared out in proportion to the counts, at
    least one each, and reused within their set. A rotated or mirrored grid counts as another grid.

    Raises ``InputError`` as in `generate`, for a test with the name of another set, and if there are more sets than grids.
    """
    if reserved := {"train", "validation"} & set(tests):
        raise InputError(f"A test set cannot be named {min(reserved)!r}: choose another name.")
    wanted: dict[str, Wanted] = {name: tests[name] for name in sorted(tests)}
    wanted |= {"validation": validation} if validation else {}
    wanted["train"] = train
    for count, givens, *_ in wanted.values():
        _check_order(size, givens, count)
    barred = _share_out(size, {name: count for name, (count, *_) in wanted.items()}, seed)
    sets: dict[str, SudokuSet] = {}
    used = np.empty((0, size * size), dtype=np.int8)
    for name, (count, givens, *guesses) in wanted.items():
        own_seed = random.Random(f"{seed}/{name}").getrandbits(62)
        sets[name] = generate(size, givens, count, own_seed, barred.get(name, used), *guesses)
        used = np.concatenate([used, sets[name].solutions])
    return sets


def _share_out(size: int, counts: dict[str, int], seed: int) -> dict[str, Boards]:
    """Return the grids that each set may not use. Empty if there are enough grids for all puzzles to differ."""
    spare, total = GRID_CLASSES[size] - len(counts), sum(counts.values())
    if spare < 0:
        raise InputError(
            f"{len(counts)} sets cannot be disjoint: there are only {GRID_CLASSES[size]} grids of {size}x{size}."
            " Ask for fewer sets."
        )
    if total <= GRID_CLASSES[size]:
        return {}
    grids = np.array([_class(size, number) for number in range(GRID_CLASSES[size])], dtype=np.int8)
    order = random.Random(f"{seed}/share").sample(range(len(grids)), len(grids))
    others, start = {}, 0
    for name, count in counts.items():
        stop = start + 1 + spare * count // total
        others[name] = grids[order[:start] + order[stop:]]
        start = stop
    return others


def split_collection(
    collection: SudokuSet, size: int, train: int, others: Mapping[str, Wanted], seed: int, lines: bool = False
) -> dict[str, SudokuSet]:
    """Draw sets from a collection of puzzles that share no solution grid, in any labelling (Palm et al. 2018).

    Args:
        collection: Puzzles with few givens.
        size: Board size.
        train: Number of training puzzles, which are unchanged. Fewer if the collection has no more.
        others: Number of puzzles and of givens, revealed at random, of each other set, drawn in this order; and of the guesses
            that each of its puzzles needs at least.
        seed: Seed of the order and of the revealed cells.
        lines: Whether sets also share no grid in any order of lines, for training with permuted lines.

    Raises:
        InputError: If the collection is too small, or has too few puzzles that need so many guesses.
    """
    _, firsts, kinds = np.unique(grid_keys(collection.solutions, size, lines), return_index=True, return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    order = np.sort(firsts)[torch.randperm(len(firsts), generator=generator).numpy()]  # the first puzzle of each grid
    asked = sum(count for count, *_ in others.values())
    if asked >= len(order):
        raise InputError(f"{asked} evaluation puzzles are too many for a collection of {len(order)} grids: ask for fewer.")
    sets = dict[str, SudokuSet]()
    for name, wanted in others.items():
        taken, puzzles = _drawn(collection.take(order), size, wanted, generator)
        sets[name] = SudokuSet(puzzles, collection.solutions[order[taken]])
        order = np.delete(order, taken)
    rank = np.full(len(firsts), -1)
    rank[kinds[order]] = np.arange(len(order))
    rows = np.argsort(rank[kinds], kind="stable")
    return {**sets, "train": collection.take(rows[rank[kinds[rows]] >= 0][:train])}


def _drawn(boards: SudokuSet, size: int, wanted: Wanted, generator: torch.Generator) -> tuple[list[int], Boards]:
    """Return the rows and the puzzles, with revealed cells, of the first boards that need enough guesses."""
    count, givens, least = wanted if len(wanted) == 3 else (*wanted, 0)
    rows, puzzles = list[int](), list[Boards]()
    for row, (few, solution) in enumerate(zip(*map(torch.from_numpy, boards), strict=True)):
        puzzle = reveal(few, solution, draw(givens, generator), generator).numpy()
        if not least or count_guesses(puzzle, size) >= least:
            rows.append(row)
            puzzles.append(puzzle)
        if len(rows) == count:
            return rows, np.stack(puzzles)
    raise InputError(
        f"Only {len(rows)} of {len(boards.puzzles)} puzzles of the collection need {least} guesses or more with {givens}"
        f" givens, but {count} are asked for: ask for fewer puzzles or fewer guesses."
    )


def reveal(puzzle: Tensor, solution: Tensor, givens: int, generator: torch.Generator) -> Tensor:
    """Reveal random cells of a puzzle (cells,) until it has at least ``givens`` givens."""
    empty = (puzzle == 0).nonzero().flatten()
    more = max(0, givens - (len(puzzle) - len(empty)))
    chosen = empty[torch.randperm(len(empty), generator=generator)[:more]]
    return puzzle.index_copy(0, chosen, solution[chosen])


def draw(givens: Givens, generator: torch.Generator) -> int:
    """Draw a number of givens, uniformly if it is a range."""
    if isinstance(givens, int):
        return givens
    return int(torch.randint(givens[0], givens[1] + 1, (), generator=generator))


def shared_grids(sets: Mapping[str, SudokuSet], size: int, lines: bool) -> int:
    """Count the grids of the set ``train`` that occur in another set, in any labelling and, with ``lines``, order of lines."""
    others = [grid_keys(boards.solutions, size, lines) for name, boards in sets.items() if name != "train"]
    train = sets["train"].solutions
    shared = train[np.isin(grid_keys(train, size, lines), np.concatenate(others))]
    return len(np.unique(grid_keys(shared, size))) if len(shared) else 0


def grid_keys(grids: npt.ArrayLike, size: int, lines: bool = False) -> npt.NDArray[Any]:
    """Return a key for each full grid (n, cells). Grids that differ only in the labels of their digits have equal keys.

    With ``lines``, so do grids that differ only in the order of lines. The key then consists of the cycles of the
    permutations between every two lines. It separates all classes of 4x4 and 6x6 grids, and those of 9x9 except by chance.
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
        sides.append(_side(places.swapaxes(1, 2), 1, band))  # by digit and line: position in the line
    rows, columns = sides[0] + _mix(sides[2]), sides[1] + _mix(sides[3])
    return rows + columns if high == wide else rows + _mix(columns)  # a transposition exchanges the two


def _side(grids: npt.NDArray[np.int8], band: int, box: int) -> npt.NDArray[np.uint64]:
    """Hash what rows have in common, independent of the order of lines and bands, and of the labels."""
    count, size, _ = grids.shape
    here = np.arange(size)
    places = grids.argsort(axis=2)
    pairs = np.take_along_axis(places[:, None], grids[:, :, None].astype(np.int64), axis=3)  # places in row j of row i's digits
    walk, pair = pairs, np.zeros((count, size, size), dtype=np.uint64)
    for _ in range(4):  # steps along the cycles, until they return to a column or its box
        back, near = (walk == here).sum(3), (walk // box == here // box).sum(3)
        pair = _mix(pair * np.uint64(100) + (back * 10 + near).astype(np.uint64))
        walk = np.take_along_axis(pairs, walk, axis=3)
    same = (here[:, None] // band == here // band).astype(np.uint64)
    row = np.zeros((count, size), dtype=np.uint64)
    for _ in range(3):  # first the pairs of a row, then the rows of its pairs
        row = _mix(row + _mix(pair + same + _mix(row)[:, None]).sum(2))
    return _mix(row.reshape(count, -1, band).sum(2)).sum(1)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble numbers so that their sums can identify sets (SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
