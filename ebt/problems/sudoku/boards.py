"""Sudoku boards: reading and writing them as text and files, and checking them against the rules.

A board is a row-major int8 array (cells,), a set of boards is (n, cells). 0 is an empty cell, digits are 1..size (4, 6 or 9).
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import numpy as np
import numpy.typing as npt
import rich.progress
from rich.console import Console

from ebt.errors import InputError
from ebt.files import separator, write_whole
from ebt.problems.sudoku.generator import BOXES, Boards, SudokuSet, check_boards, check_size, size_of, solutions, units

Check = Literal["unique", "rules", "none"]

EMPTY = "0._*"
LARGE = 10_000  # larger files are checked for uniqueness only on request; also the rows read at a time
BOARD_FILES = re.compile(r"\.(sdk|ss)(\.gz)?$", re.I)  # files with one board as a grid, of SudoCue and Simple Sudoku
SKIPPED = re.compile(r"#.*|^\s*\[[a-z]+\]\s*$|^[ \t*|+-]*--[ \t*|+-]*$", re.M | re.I)  # comments, titles, frame lines
NAMES = ("puzzle", "puzzles", "quiz", "quizzes", "question"), ("solution", "solutions", "answer", "answers")
OWNER = "boards here are"


def board_errors(boards: npt.ArrayLike, size: int) -> npt.NDArray[np.bool_]:
    """Which filled cells repeat a digit of their row, column or box. Returns bool of the shape (..., cells) of `boards`."""
    array = check_boards(boards, size)
    wrong: npt.NDArray[np.bool_] = np.zeros(array.shape, dtype=bool)
    for unit in units(size):
        digits = array[..., unit]
        wrong[..., unit] |= ((digits[..., None] == digits[..., None, :]).sum(-1) > 1) & (digits > 0)
    return wrong


def is_solved(boards: npt.ArrayLike, puzzles: npt.ArrayLike, size: int) -> npt.NDArray[np.bool_]:
    """Which boards (..., cells) are full, valid and keep all givens of `puzzles` (same shape). Returns bool (...)."""
    array, given = check_boards(boards, size), check_boards(puzzles, size, "puzzles")
    if array.shape != given.shape:
        raise InputError(f"boards has shape {array.shape}, but puzzles has {given.shape}: give one puzzle per board.")
    high, wide = BOXES[size]
    bits = (1 << array.astype(np.int16)).reshape(*array.shape[:-1], size // high, high, size // wide, wide)
    solved: npt.NDArray[np.bool_] = ((given == 0) | (given == array)).all(axis=-1)
    for axes in ((-2, -1), (-4, -3), (-3, -1)):  # the cells of a row, a column, a box
        solved &= (np.bitwise_or.reduce(bits, axis=axes) == 2 ** (size + 1) - 2).all(axis=(-2, -1))
    return solved


def _cell(cell: int | np.integer, size: int) -> str:
    return f"row {cell // size + 1} column {cell % size + 1}"


def _conflict(board: Boards, size: int) -> str:
    """Describe the first repeated digit of a board that has one."""
    repeats = (np.bincount(board[unit], minlength=2)[1:] > 1 for unit in units(size))
    index, repeated = next((index, repeated) for index, repeated in enumerate(repeats) if repeated.any())
    unit, digit = units(size)[index], repeated.argmax() + 1
    places = [_cell(cell, size) for cell in unit[board[unit] == digit]]
    name = f"{('row', 'column', 'box')[index // size]} {index % size + 1}"
    return f"digit {digit} occurs {len(places)} times in {name}, at {' and '.join(places)}"


def _fault(puzzle: Boards, solution: Boards, size: int) -> str:
    """Describe the first fault of a puzzle, or of a solution that does not solve it."""
    if board_errors(puzzle, size).any():
        return f"the givens contradict each other, {_conflict(puzzle, size)}"
    for cell in np.flatnonzero((puzzle > 0) & (puzzle != solution)):
        return f"the solution has {solution[cell]} at {_cell(cell, size)} where the puzzle has {puzzle[cell]}"
    for cell in np.flatnonzero(solution == 0):
        return f"the solution is empty at {_cell(cell, size)}"
    return f"the solution is invalid, {_conflict(solution, size)}"


def _solve(where: str, board: Boards, size: int, limit: int = 2) -> Boards:
    """Solve one board. Raises ``InputError`` if it has no solution or, with limit 2, several."""
    if board_errors(board, size).any():
        raise InputError(f"{where}: {_fault(board, board, size)}. Correct or empty one cell.")
    found = solutions(board, size, limit)
    if len(found) == 0:
        raise InputError(f"{where}: the puzzle has no solution. Check its givens against the source.")
    if len(found) > 1:
        raise InputError(f"{where}: the puzzle has several solutions. Add givens until only one is left.")
    return cast(Boards, found[0])


def parse_board(
    text: str, size: int | None = None, check_unique: bool = False, where: str = "The board", owner: str = OWNER
) -> Boards:
    """Parse a puzzle, int8 (cells,), from one line of 16, 36 or 81 cells, or from a grid with one line per row.

    A cell is a digit, or one of `0 . _ *` if empty. Spaces, commas and `| - +` are separators. Comments after `#`, frame
    lines (`*---*`) and titles (`[Puzzle]`) are skipped, as is everything after `[State]`.

    Args:
        text: Text of the board.
        size: 4, 6 or 9. By default it follows from the number of cells.
        check_unique: Whether to reject a puzzle with several solutions.
        where: Name of the text in errors.
        owner: Phrase in errors for what has this size.

    Raises:
        InputError: If the text has other characters or a wrong number of cells, or the puzzle has contradicting givens, no
            solution, or several.
    """
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(SKIPPED.sub("", re.split(r"(?im)^\s*\[state\]", text)[0]).splitlines(), 1):
        if foreign := re.search(r"[^\d._* \t\r|+,-]", line, re.ASCII):
            raise InputError(
                f"{where} has {foreign[0]!r} at line {number}, character {foreign.start() + 1}: use digits, 0 . _ or * for an"
                " empty cell, and spaces, commas, | - or + between cells."
            )
        if cells := re.sub(r"[ \t\r|+,-]", "", line):
            lines.append((number, cells))
    digits = [0 if c in EMPTY else int(c) for _, cells in lines for c in cells]
    size = size_of(len(digits)) if size is None else check_size(size)
    board = np.array(digits, dtype=np.int8)
    if len(board) != size * size:
        raise InputError(f"{where} has {len(board)} cells, and {owner} {size}x{size}: give {size * size} cells.")
    for number, cells in lines:
        if len(lines) > 1 and len(cells) != size:
            raise InputError(f"{where}: line {number} has {len(cells)} cells. Give {size} per line, or all on one line.")
    for cell in np.flatnonzero(board > size):
        raise InputError(
            f"{where} has {board[cell]} at {_cell(cell, size)}, and {owner} {size}x{size}: give digits 1 to {size}."
        )
    _solve(where, board, size, limit=2 if check_unique else 1)
    return board


def format_board(board: npt.ArrayLike, size: int, puzzle: npt.ArrayLike | None = None) -> str:
    """Format a board (cells,) as text for `parse_board`, with lines between boxes and `.` for an empty cell.

    With the original `puzzle`, givens are in brackets, and `!` follows a digit that differs from its given or repeats one of
    its row, column or box. This form is for display only.
    """
    digits = check_boards(board, size, "board", one=True)
    texts = [f"{d} " if d else ". " for d in digits]
    if puzzle is not None:
        givens = check_boards(puzzle, size, "puzzle", one=True)
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


def read_csv(path: str | Path, size: int | None = None, check: Check | None = None, owner: str = OWNER) -> SudokuSet:
    """Read puzzles and solutions from a file, one puzzle per line. Missing solutions are computed.

    The columns are found by a header (`puzzle,solution`, `quizzes,solutions`, `source,question,answer,rating` and others, in
    any order). Without a header they are the first two. Commas, semicolons or tabs separate columns, `0 . _ *` are empty cells,
    and `#` begins a comment (in lines without quotes). A `.gz` file is decompressed. A `.sdk` or `.ss` file has one board, see
    `parse_board`. Terminals show the progress.

    Args:
        path: File to read.
        size: 4, 6 or 9. That of the first puzzle by default.
        check: `"rules"` checks that each solution is valid and belongs to its puzzle. `"unique"` also checks that it is unique
            (about 0.3 ms per puzzle with 17 givens). `"none"` checks lengths and characters only. The default is `"unique"`,
            or `"rules"` beyond 10,000 puzzles. Computed solutions are always unique.
        owner: Phrase in errors for what has this size.

    Raises:
        InputError: If a line has a wrong length or character, or fails `check`. The error names file and line.
    """
    if check not in (None, "unique", "rules", "none"):
        raise InputError(f"check = {check!r} is unknown: give 'unique', 'rules' or 'none'.")
    path = Path(path)
    with _open(path) as file:
        if BOARD_FILES.search(path.name):
            puzzles = parse_board(file.read(), size, where=str(path), owner=owner)[None]
            lines, given = np.ones(1, dtype=np.int32), None
        else:
            lines, puzzles, given = _read_lines(path, file, size, check, owner)
    if given is not None and (check in ("rules", "none") or (check is None and len(lines) > LARGE)):
        return SudokuSet(puzzles, given)
    proven, size = np.empty_like(puzzles), size_of(puzzles.shape[1])
    for i in rich.progress.track(range(len(lines)), f"checking {path.name}", **_bar()):
        proven[i] = _solve(f"{path}, line {lines[i]}", puzzles[i], size)
    return SudokuSet(puzzles, proven)


def _bar() -> dict[str, Any]:
    """Settings of a progress bar on standard error, shown only in a terminal."""
    console = Console(stderr=True)
    return {"console": console, "transient": True, "disable": not console.is_terminal}


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """Open a text file, compressed or not. Read errors within the context also become ``InputError``."""
    try:
        with rich.progress.open(path, "rb", description=f"reading {path.name}", **_bar()) as raw:
            data = gzip.GzipFile(fileobj=raw) if path.suffix.lower() == ".gz" else raw
            yield TextIOWrapper(cast(Any, data), "utf-8-sig", newline="")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}): give an existing text file with puzzles, plain or .gz.") from error


def _read_lines(
    path: Path, file: TextIO, size: int | None, check: Check | None, owner: str
) -> tuple[npt.NDArray[np.int32], Boards, Boards | None]:
    """Read line numbers, puzzles and, if present, solutions as arrays. The text is never held as a whole."""
    texts = (line if '"' in line else line.partition("#")[0] for line in file)
    head = []
    for text in texts:
        head.append(text)
        if text.strip():
            break
    reader = csv.reader(chain(head, texts), delimiter=separator(head[-1] if head else ""))
    rows: Iterator[tuple[int, list[str]]]
    rows = ((reader.line_num, row) for fields in reader if any(row := [field.strip() for field in fields]))
    first = next(rows, (0, []))
    if any(re.fullmatch(r"[\d._*]+", field) for field in first[1]):
        places, rows = [0, 1][: len(first[1])], chain([first], rows)
    else:
        places = _columns(path, first[1])
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    while part := list(islice(rows, LARGE)):
        lines, fields = zip(*part, strict=True)
        for line, row in part:
            if len(row) != len(first[1]):
                raise InputError(f"{path}, line {line}: {len(row)} fields instead of {len(first[1])}. Correct this line.")
        where = f"{path}, line {lines[0]}: "
        size = size_of(len(fields[0][places[0]]), where) if size is None else check_size(size)
        names = zip(places, ("puzzle", "solution"), strict=False)
        columns = [_to_boards(path, lines, [row[place] for row in fields], size, name, owner) for place, name in names]
        if len(columns) == 2 and check != "none":
            for i in np.flatnonzero(~is_solved(columns[1], columns[0], size)):
                raise InputError(f"{path}, line {lines[i]}: {_fault(columns[0][i], columns[1][i], size)}. Correct this line.")
        parts.append((np.array(lines, dtype=np.int32), *columns))
    if not parts:
        raise InputError(f"{path} has no puzzles: give one puzzle per line.")
    numbers, puzzles, *solved = (np.concatenate(column) for column in zip(*parts, strict=True))
    return numbers, puzzles, solved[0] if solved else None


def _columns(path: Path, header: list[str]) -> list[int]:
    """Return the column indices of the puzzle and, if present, the solution."""
    places = [next((i for i, field in enumerate(header) if field.lower() in names), None) for names in NAMES]
    if header and places[0] is None:
        raise InputError(
            f"{path} has no puzzles under the header `{','.join(header)}`: name a column `puzzle`, optionally one `solution`."
        )
    return [place for place in places if place is not None]


def _to_boards(path: Path, lines: Sequence[int], texts: Sequence[str], size: int, name: str, owner: str) -> Boards:
    """Convert texts to boards (n, cells). Raises ``InputError`` for a wrong length or character."""
    for line, text in zip(lines, texts, strict=True):
        if len(text) != size * size:
            raise InputError(
                f"{path}, line {line}: the {name} has {len(text)} cells, and {owner} {size}x{size}: give {size * size} cells."
            )
    digits = np.full(256, -1, dtype=np.int8)
    digits[[*map(ord, EMPTY), *range(ord("1"), ord("1") + size)]] = [*[0] * len(EMPTY), *range(1, size + 1)]
    codes = np.frombuffer("".join(texts).encode("ascii", "replace"), dtype=np.uint8)
    boards = digits[codes].reshape(-1, size * size)
    for i, cell in np.argwhere(boards < 0):
        raise InputError(
            f"{path}, line {lines[i]}: the {name} has {texts[i][cell]!r} as character {cell + 1}."
            f" Use 1 to {size}, and one of {' '.join(EMPTY)} if empty ({owner} {size}x{size})."
        )
    return boards


def write_csv(path: str | Path, puzzles: npt.ArrayLike, solutions: npt.ArrayLike) -> None:
    """Write puzzles and solutions (n, cells) to a `.csv` or `.csv.gz` file for `read_csv`, with `0` for empty cells.

    Raises:
        InputError: If a solution does not solve its puzzle, or the file cannot be written.
    """
    pair = check_pair(puzzles, solutions)
    texts = [(boards + ord("0")).astype(np.uint8).view(f"S{boards.shape[1]}")[:, 0] for boards in pair]
    data = b"puzzle,solution\n" + b"".join(b"%s,%s\n" % pair for pair in zip(*texts, strict=True))
    try:
        with write_whole(path) as file:
            file.write(gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}): choose a path in an existing, writable folder.") from error


def check_pair(puzzles: npt.ArrayLike, solutions: npt.ArrayLike, size: int | None = None, check: bool = True) -> SudokuSet:
    """Convert both to int8 (n, cells). With ``check``, raise ``InputError`` unless every solution solves its puzzle."""
    shape = np.shape(puzzles)
    if len(shape) != 2:
        raise InputError(f"puzzles has shape {shape}: give boards of shape (n, cells).")
    size = size_of(shape[1]) if size is None else size
    pair = SudokuSet(check_boards(puzzles, size, "puzzles"), check_boards(solutions, size, "solutions"))
    for i in np.flatnonzero(~is_solved(pair.solutions, pair.puzzles, size)) if check else ():
        problem = _fault(pair.puzzles[i], pair.solutions[i], size)
        raise InputError(f"Puzzle {i} (counted from 0): {problem}. Give the solutions in the order of the puzzles.")
    return pair
