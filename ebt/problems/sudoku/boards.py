"""Sudoku puzzles as text, as CSV files and as a torch data set; checks of boards.

A board is a row-major int8 array (cells,), a set of boards (n, cells); 0 is an empty cell, digits are 1..size (4, 6 or
9). The solver and the generator are in `sudoku_generator`; their public names can be imported from here too.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ebt.errors import InputError
from ebt.problems.sudoku.generator import (
    BOXES,
    Boards,
    SudokuSet,
    canonical,
    check_board,
    check_boards,
    check_size,
    generate,
    make_splits,
    size_of,
    solutions,
)
from ebt.problems.sudoku.variety import draw, line_orders, reveal, split_collection

__all__ = [
    "SudokuDataset",
    "SudokuSet",
    "board_errors",
    "canonical",
    "format_board",
    "generate",
    "is_solved",
    "make_splits",
    "parse_board",
    "permute_digits",
    "read_csv",
    "solutions",
    "split_collection",
    "write_csv",
]

EMPTY = "0._*"
SEPARATORS = " \t\r|-+,"


@cache
def _units(size: int) -> npt.NDArray[np.int64]:
    """Cells of every row, column and box, in this order: (3 * size, size)."""
    rows, columns = BOXES[size]
    board = np.arange(size * size).reshape(size, size)
    boxes = board.reshape(size // rows, rows, size // columns, columns).swapaxes(1, 2).reshape(size, size)
    return np.concatenate([board, board.T, boxes])


@cache
def _peers(size: int) -> npt.NDArray[np.float32]:
    """1 where two different cells share a row, column or box: (cells, cells)."""
    peers = np.zeros((size * size, size * size), dtype=np.float32)
    for unit in _units(size):
        peers[np.ix_(unit, unit)] = 1
    np.fill_diagonal(peers, 0)
    return peers


def board_errors(boards: npt.ArrayLike, size: int) -> npt.NDArray[np.bool_]:
    """Which filled cells repeat a digit of their row, column or box: bool, of the shape (..., cells) of `boards`."""
    array = check_boards(boards, size)
    wrong: npt.NDArray[np.bool_] = np.zeros(array.shape, dtype=bool)
    for digit in range(1, size + 1):
        here = array == digit
        wrong |= here & (here.astype(np.float32) @ _peers(size) > 0)
    return wrong


def is_solved(boards: npt.ArrayLike, puzzles: npt.ArrayLike, size: int) -> npt.NDArray[np.bool_]:
    """Which boards (..., cells) are full, valid and keep every given of `puzzles` (same shape): bool (...)."""
    array, given = check_boards(boards, size), check_boards(puzzles, size, "puzzles")
    if array.shape != given.shape:
        raise InputError(f"boards has shape {array.shape} but puzzles {given.shape}: give one puzzle per board.")
    seen = np.bitwise_or.reduce((1 << array.astype(np.int16))[..., _units(size)], axis=-1)
    kept = (given == 0) | (given == array)
    solved: npt.NDArray[np.bool_] = (seen == 2 ** (size + 1) - 2).all(axis=-1) & kept.all(axis=-1)
    return solved


def _cell(cell: int | np.integer, size: int) -> str:
    return f"row {cell // size + 1} column {cell % size + 1}"


def _conflict(board: Boards, size: int) -> str:
    """Words for the first repeated digit of a board that has one."""
    for index, unit in enumerate(_units(size)):
        for digit in range(1, size + 1):
            cells = unit[board[unit] == digit]
            if len(cells) > 1:
                name = ("row", "column", "box")[index // size]
                places = " and ".join(_cell(cell, size) for cell in cells)
                return f"digit {digit} stands {len(cells)} times in {name} {index % size + 1}, at {places}"
    raise AssertionError("the board has no conflict")


def parse_board(text: str, size: int | None = None, check_unique: bool = False) -> Boards:
    """A puzzle from text, int8 (cells,): one line of 16, 36 or 81 cells, or a grid with one line per row.

    A cell is a digit, or one of `0 . _ *` if empty; spaces, commas and `| - +` separate. The size follows from the
    number of cells unless given. InputError for any other character, a wrong number of cells, givens that contradict
    each other, a puzzle without solution and, under `check_unique`, one with several.
    """
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        for place, character in enumerate(line, 1):
            if character not in SEPARATORS + EMPTY + "123456789":
                raise InputError(
                    f"The board has {character!r} at line {number}, character {place}: use digits, 0 . _ or * for an"
                    " empty cell, and spaces, commas, | - or + between cells."
                )
        if cells := "".join(character for character in line if character not in SEPARATORS):
            lines.append((number, cells))
    digits = [0 if c in EMPTY else int(c) for _, cells in lines for c in cells]
    size = size_of(len(digits)) if size is None else check_size(size)
    board = np.array(digits, dtype=np.int8)
    _check_layout(lines, board, size)
    _check_givens("The board", board[None], size)
    _solve("The board", board, size, limit=2 if check_unique else 1)
    return board


def _check_layout(lines: list[tuple[int, str]], board: Boards, size: int) -> None:
    if len(board) != size * size:
        raise InputError(
            f"The board has {len(board)} cells, not those of size {size}: give 16 (size 4), 36 (6) or 81 (9) cells."
        )
    for number, cells in lines:
        if len(lines) > 1 and len(cells) != size:
            raise InputError(f"Line {number} of the board has {len(cells)} cells: give {size} a line, or all on one line.")
    for cell in np.flatnonzero(board > size):
        raise InputError(
            f"The board has {board[cell]} at {_cell(cell, size)}: digits of a {size}x{size} board are 1 to {size}."
        )


def _check_givens(where: str, boards: Boards, size: int, lines: list[int] | None = None) -> None:
    """InputError for the first of `boards` (n, cells) whose givens contradict each other."""
    for i in np.flatnonzero(board_errors(boards, size).any(axis=1)):
        at = f"{where}, line {lines[i]}" if lines else where
        raise InputError(f"{at}: the givens contradict each other, {_conflict(boards[i], size)}. Correct or empty one cell.")


def _solve(where: str, board: Boards, size: int, limit: int = 2) -> Boards:
    """The solution of one board; InputError if there is none or, with limit 2, another."""
    found = solutions(board, size, limit)
    if len(found) == 0:
        raise InputError(f"{where}: the puzzle has no solution. Check its givens against the source.")
    if len(found) > 1:
        raise InputError(f"{where}: the puzzle has several solutions. Add givens until only one is left.")
    solution: Boards = found[0]
    return solution


def format_board(board: npt.ArrayLike, size: int, puzzle: npt.ArrayLike | None = None) -> str:
    """A board (cells,) as text with lines between boxes and `.` for an empty cell, which `parse_board` can read.

    With the `puzzle` it came from, givens stand in brackets, and `!` follows a digit that differs from its given or
    repeats one of its row, column or box; this form is for reading by eye alone.
    """
    digits = check_board(board, size)
    texts = [f"{d} " if d else ". " for d in digits]
    if puzzle is not None:
        givens = check_board(puzzle, size, "puzzle")
        wrong = board_errors(digits, size) | (givens > 0) & (givens != digits)
        texts = [
            ("[" if given else " ") + (str(d) if d else ".") + ("!" if bad else "]" if given else " ")
            for d, given, bad in zip(digits, givens, wrong, strict=True)
        ]
    rows, columns = BOXES[size]
    parts = ["".join(texts[i : i + columns]) for i in range(0, size * size, columns)]
    lines = ["| ".join(parts[i : i + rows]).rstrip() for i in range(0, size * rows, rows)]
    rule = "+-".join(["-" * len(parts[0])] * rows)
    return "\n".join(text for i, line in enumerate(lines) for text in ([rule] if i and i % rows == 0 else []) + [line])


def read_csv(path: str | Path, size: int | None = None, check: Literal["unique", "rules"] = "unique") -> SudokuSet:
    """Puzzles and solutions of a `.csv` or `.csv.gz` file, one puzzle a line, `0` or `.` for an empty cell.

    Columns `puzzle` and, optionally, `solution` are found by the header; without a header they are the first two.
    Missing solutions are computed. Every line is checked against the rules; `check="unique"` also proves that no puzzle
    has a second solution (some 0.3 ms a puzzle with 17 givens), which `check="rules"` takes on trust where the file has
    solutions.

    InputError, naming file and line, for a wrong length, a foreign character, contradictory givens, a solution that is
    invalid or does not belong to its puzzle, no solution, or several.
    """
    if check not in ("unique", "rules"):
        raise InputError(f"check = {check!r} is unknown: give 'unique' or 'rules'.")
    path = Path(path)
    lines, columns = _read_columns(path)
    size = _size_of_file(path, lines[0], columns[0][0]) if size is None else check_size(size)
    puzzles = _to_boards(path, lines, columns[0], size, "puzzle")
    _check_givens(str(path), puzzles, size, lines)
    if len(columns) == 2:
        solved = _to_boards(path, lines, columns[1], size, "solution")
        for i in np.flatnonzero(~is_solved(solved, puzzles, size)):
            problem = _what_is_wrong(solved[i], puzzles[i], size)
            raise InputError(f"{path}, line {lines[i]}: {problem}. Correct it, or leave out the solution column.")
    if len(columns) == 1 or check == "unique":
        solved = np.stack([_solve(f"{path}, line {line}", p, size) for line, p in zip(lines, puzzles, strict=True)])
    return SudokuSet(puzzles, solved)


def _read_columns(path: Path) -> tuple[list[int], list[tuple[str, ...]]]:
    """Line numbers; the puzzle column and, if there is one, the solution column."""
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}): give an existing .csv or .csv.gz text file.") from error
    names = ["puzzle", "solution"][: len(rows[0][1])] if rows else []
    if rows and rows[0][1][0].isidentifier():
        names = [name.lower() for name in rows.pop(0)[1]]
    if not rows or "puzzle" not in names:
        raise InputError(f"{path} has no puzzles: give a file with the header `puzzle,solution` and a puzzle on every line.")
    for line, row in rows:
        if len(row) != len(names):
            raise InputError(f"{path}, line {line}: {len(row)} fields where {len(names)} are due. Correct this line.")
    wanted = [names.index(name) for name in ("puzzle", "solution") if name in names]
    return [line for line, _ in rows], [tuple(row[i] for _, row in rows) for i in wanted]


def _size_of_file(path: Path, line: int, text: str) -> int:
    try:
        return size_of(len(text))
    except InputError as error:
        raise InputError(f"{path}, line {line}: {error}") from error


def _to_boards(path: Path, lines: list[int], texts: tuple[str, ...], size: int, name: str) -> Boards:
    """Texts as boards (n, cells), all at once; InputError for a wrong length or a foreign character."""
    for line, text in zip(lines, texts, strict=True):
        if len(text) != size * size:
            raise InputError(f"{path}, line {line}: the {name} has {len(text)} characters. Give {size * size} (size {size}).")
    digits = np.full(256, -1, dtype=np.int8)
    digits[[ord("."), *range(ord("0"), ord("0") + size + 1)]] = [0, *range(size + 1)]
    codes = np.frombuffer("".join(texts).encode("ascii", "replace"), dtype=np.uint8)
    boards = digits[codes].reshape(-1, size * size)
    for i, cell in np.argwhere(boards < 0):
        raise InputError(
            f"{path}, line {lines[i]}: the {name} has {texts[i][cell]!r} as character {cell + 1}."
            f" Use 1 to {size}, and 0 or . if empty."
        )
    return boards


def _what_is_wrong(solution: Boards, puzzle: Boards, size: int) -> str:
    """Words for the first fault of a solution that is not one."""
    for cell in np.flatnonzero((puzzle > 0) & (puzzle != solution)):
        return f"the solution has {solution[cell]} at {_cell(cell, size)} where the puzzle has {puzzle[cell]}"
    for cell in np.flatnonzero(solution == 0):
        return f"the solution is empty at {_cell(cell, size)}"
    return f"the solution is invalid, {_conflict(solution, size)}"


def write_csv(path: str | Path, puzzles: npt.ArrayLike, solutions: npt.ArrayLike) -> None:
    """Write puzzles and solutions (n, cells) to a `.csv` or `.csv.gz` file that `read_csv` reads; `0` is empty.

    InputError if a solution does not solve its puzzle, or if the file cannot be written.
    """
    columns = _checked_pair(puzzles, solutions)
    texts = [(column + ord("0")).astype(np.uint8).view(f"S{column.shape[1]}")[:, 0].tolist() for column in columns]
    data = b"puzzle,solution\n" + b"".join(b"%s,%s\n" % pair for pair in zip(*texts, strict=True))
    try:
        Path(path).write_bytes(gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}): choose a path in an existing, writable folder.") from error


def _checked_pair(puzzles: npt.ArrayLike, solutions: npt.ArrayLike, size: int | None = None) -> SudokuSet:
    """Both as int8 (n, cells); InputError unless every solution solves its puzzle."""
    shape = np.shape(puzzles)
    if len(shape) != 2:
        raise InputError(f"puzzles has shape {shape}: give boards of shape (n, cells).")
    size = size_of(shape[1]) if size is None else size
    pair = SudokuSet(check_boards(puzzles, size, "puzzles"), check_boards(solutions, size, "solutions"))
    for i in np.flatnonzero(~is_solved(pair.solutions, pair.puzzles, size)):
        problem = _what_is_wrong(pair.solutions[i], pair.puzzles[i], size)
        raise InputError(f"Puzzle {i} (counted from 0): {problem}. Give solutions in the order of their puzzles.")
    return pair


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
    InputError if a solution does not solve its puzzle or seed < 0.
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
    ) -> None:
        if seed < 0:
            raise InputError(f"seed = {seed} is negative: give 0 or more.")
        pair = _checked_pair(puzzles, solutions, size)
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
