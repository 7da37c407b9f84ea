"""Mazes: their exact solution, and reading and writing them as text and files.

A set of mazes is an int8 array (k, n, n) of squares: walls, open squares, one start and one goal. Walls are squares of their
own, and surround a maze. Paths are int8 (k, n, n), 1 on the only shortest path from start to goal, both included.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ebt.errors import InputError
from ebt.files import write_whole

Squares = npt.NDArray[np.int8]

WALL, OPEN, START, GOAL = range(4)
SIGNS = "# SG"
"""Characters of walls, open squares, start and goal."""
PATH = "."
"""Character of open squares on the path."""
SMALLEST, LARGEST = 7, 31


class MazeSet(NamedTuple):
    """Mazes and their paths, int8 (k, n, n)."""

    mazes: Squares
    paths: Squares


def check_size(size: int) -> int:
    """Return the size. Raises ``InputError`` unless it is odd and from 7 to 31."""
    if size % 2 == 0 or not SMALLEST <= size <= LARGEST:
        raise InputError(f"size is {size}: mazes have an odd number of squares on a side, from {SMALLEST} to {LARGEST}.")
    return size


def check_mazes(mazes: npt.ArrayLike, where: str = "mazes", numbered: bool = True) -> Squares:
    """Convert mazes to int8 (k, n, n).

    Args:
        mazes: (k, n, n).
        where: What they are, for errors.
        numbered: Whether errors give the number of the maze.

    Raises:
        InputError: A size, a square or the border is invalid, or a maze has not one start and one goal.
    """
    array = np.asarray(mazes)
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        raise InputError(f"{where} has shape {array.shape}: give squares of shape (k, n, n).")
    check_size(array.shape[1])
    if not np.isin(array, range(len(SIGNS))).all():
        raise InputError(f"{where} has squares other than {WALL} (wall), {OPEN} (open), {START} (start) and {GOAL} (goal).")
    squares = array.astype(np.int8)
    border = squares.copy()
    border[:, 1:-1, 1:-1] = WALL
    for i, maze in enumerate(squares):
        name = f"maze {i + 1} of {where}" if numbered else where
        if len(gap := np.argwhere(border[i] != WALL)):
            row, column = gap[0] + 1
            raise InputError(
                f"{name} is open at its border, in row {row} column {column}: surround it with walls ({SIGNS[0]})."
            )
        for kind, what in ((START, "start"), (GOAL, "goal")):
            if (count := int((maze == kind).sum())) != 1:
                raise InputError(f"{name} has {count or 'no'} {what}{'s' * (count > 1)}: give exactly one {SIGNS[kind]}.")
    return squares


def distances(mazes: Squares, kind: int) -> npt.NDArray[np.float64]:
    """Return the number of moves from the only square of a kind to every square (k, n, n), infinite where there is no way."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    ways, squares = mazes != WALL, np.arange(mazes.size).reshape(mazes.shape)
    pairs = [(np.s_[:, :, :-1], np.s_[:, :, 1:]), (np.s_[:, :-1], np.s_[:, 1:])]
    joined = [ways[one] & ways[other] for one, other in pairs]
    ends = [np.concatenate([squares[pair[i]][both] for pair, both in zip(pairs, joined, strict=True)]) for i in (0, 1)]
    graph = coo_array((np.ones(len(ends[0]), np.int8), tuple(ends)), (mazes.size, mazes.size)).tocsr()
    sources = np.flatnonzero(mazes.reshape(-1) == kind)  # one per maze, and no maze is joined to another
    found = dijkstra(graph, directed=False, unweighted=True, indices=sources, min_only=True)
    return np.asarray(found).reshape(mazes.shape)


def solve(mazes: npt.ArrayLike, where: str = "mazes", numbered: bool = True) -> Squares:
    """Return the shortest paths (k, n, n) of mazes.

    Args:
        mazes: (k, n, n).
        where: What they are, for errors.
        numbered: Whether errors give the number of the maze.

    Raises:
        InputError: A maze is invalid (see ``check_mazes``), its goal cannot be reached, or it has several shortest paths.
    """
    squares = check_mazes(mazes, where, numbered)
    if not len(squares):
        return squares
    ahead, back = distances(squares, START), distances(squares, GOAL)
    length = ahead[squares == GOAL]
    found = ahead + back == length[:, None, None]
    for i in np.flatnonzero(~np.isfinite(length) | (found.sum((1, 2)) != length + 1)):
        name = f"maze {i + 1} of {where}" if numbered else where
        if not np.isfinite(length[i]):
            raise InputError(f"the goal of {name} cannot be reached from its start: open a way between S and G.")
        raise InputError(f"{name} has several shortest paths from S to G: close all but one of them with walls.")
    return found.astype(np.int8)


def surround(mazes: Squares, size: int) -> Squares:
    """Return mazes with walls on the right and below, so that they have ``size`` x ``size`` squares."""
    more = size - mazes.shape[1]
    return np.pad(mazes, ((0, 0), (0, more), (0, more)), constant_values=WALL)


def unframed(maze: Squares) -> Squares:
    """Return a maze (n, n) without the walls that ``surround`` put around it."""
    size = int(np.argwhere(maze != WALL).max()) + 2
    return maze[:size, :size]


def joined(sets: list[MazeSet]) -> MazeSet:
    """Return mazes of several sizes as one set, with walls around the smaller ones."""
    size = max(part.mazes.shape[1] for part in sets)
    return MazeSet(*(np.concatenate([surround(part[i], size) for part in sets]) for i in (0, 1)))


def parse_maze(text: str, where: str = "the maze") -> Squares:
    """Parse a maze (n, n), one line per row: ``#`` wall, space open, ``S`` start, ``G`` goal. A ``.`` is open, too.

    Args:
        text: Text of the maze.
        where: Name of the text in errors.

    Raises:
        InputError: The text is not a square of such characters, its size is not odd or not from 7 to 31, or the maze is
            invalid (see ``solve``).
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]  # walls are at both ends
    for number, line in enumerate(lines, 1):
        if foreign := set(line) - set(SIGNS + PATH):
            raise InputError(
                f"{where} has {min(foreign)!r} in row {number}: use # (wall), space or . (open), S (start) and G (goal)."
            )
        if len(line) != len(lines):
            raise InputError(
                f"{where} has {len(lines)} rows, and row {number} has {len(line)} squares: give as many squares in each row "
                "as there are rows, with walls at both ends."
            )
    if len(lines) % 2 == 0 or not SMALLEST <= len(lines) <= LARGEST:
        raise InputError(f"{where} has {len(lines)} rows: give an odd number of rows, from {SMALLEST} to {LARGEST}.")
    maze = np.array([[SIGNS.index(sign.replace(PATH, " ")) for sign in line] for line in lines], np.int8)
    solve(maze[None], where, numbered=False)
    return maze


def format_maze(maze: npt.ArrayLike, path: npt.ArrayLike | None = None) -> str:
    """Return a maze (n, n) or (C,) as text, with ``.`` on its path.

    Args:
        maze: Squares of the maze.
        path: 1 on the path. Default: no path is shown.
    """
    squares = np.asarray(maze)
    size = int(squares.size**0.5)
    signs = np.array(list(SIGNS))[squares.reshape(size, size)]
    if path is not None:
        signs[(squares.reshape(size, size) == OPEN) & (np.asarray(path).reshape(size, size) == 1)] = PATH
    return "\n".join(map("".join, signs))


def read_mazes(path: str | Path) -> MazeSet:
    """Read mazes from a text file, separated by blank lines, and solve them. Smaller ones are surrounded with walls.

    Raises:
        InputError: The file cannot be read, has no maze, or one is invalid (see ``parse_maze``).
    """
    try:
        with (gzip.open if Path(path).suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a text file of mazes, plain or .gz.") from error
    mazes = [parse_maze(block, f"{path}, line {line}") for line, block in _blocks(text)]
    if not mazes:
        raise InputError(f"{path} has no maze: give one or more, separated by blank lines.")
    size = max(map(len, mazes))
    squares = np.concatenate([surround(maze[None], size) for maze in mazes])
    return MazeSet(squares, solve(squares, str(path)))


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Blocks of lines that are not blank, with the number of their first line."""
    numbered = enumerate(text.split("\n"), 1)
    for blank, lines in groupby(numbered, lambda line: not line[1].strip()):
        if not blank:
            (first, line), *rest = lines
            yield first, "\n".join([line, *(line for _, line in rest)])


def write_mazes(path: str | Path, mazes: npt.ArrayLike, paths: npt.ArrayLike | None = None) -> None:
    """Write mazes (k, n, n) to a text file for ``read_mazes``, with their paths if given.

    Raises:
        InputError: A maze is invalid (see ``solve``), or the file cannot be written.
    """
    squares = check_mazes(mazes)
    solve(squares)
    marks = [None] * len(squares) if paths is None else np.asarray(paths)
    texts = [format_maze(maze, mark) for maze, mark in zip(squares, marks, strict=True)]
    try:
        with write_whole(path) as file:
            file.write(("\n\n".join(texts) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}): choose a path in an existing, writable folder.") from error
