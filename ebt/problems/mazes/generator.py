"""Random perfect mazes: there is exactly one way between any two open squares."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from ebt.errors import InputError
from ebt.problems.mazes.grids import GOAL, OPEN, START, WALL, MazeSet, Squares, check_size, distances, solve

FAR = 0.5
"""Least distance of the goal from the start, as a share of the largest distance from that start."""
EXCHANGED = np.array([WALL, OPEN, GOAL, START], np.int8)
"""The kind of each square after start and goal are exchanged."""
AT_ONCE = 2000
"""Mazes drawn at a time. Limits the memory."""


def generate(size: int, count: int, seed: int | Sequence[int] = 0, exclude: Collection[bytes] = ()) -> MazeSet:
    """Draw different perfect mazes with their paths.

    Rooms lie at odd rows and columns. A random spanning tree, the minimum spanning tree of random weights, opens the walls
    between them. The start is a random room. The goal is a random one of those at least half as far as the farthest.

    Args:
        size: Number of squares on a side, odd, from 7 to 31.
        count: Number of mazes.
        seed: One or more numbers that determine the mazes.
        exclude: Keys (``keys``) of mazes not to draw.

    Raises:
        InputError: The size is invalid, a number is negative, or there are too few different mazes.
    """
    check_size(size)
    if count < 0 or np.min(seed) < 0:
        raise InputError(f"count is {count} and seed is {seed}: neither may be negative.")
    random = np.random.default_rng(seed)
    seen, found, missing = set(exclude), list[Squares](), count
    while missing:
        drawn = _draw(size, min(max(missing, 100), AT_ONCE), random)
        new = [i for i, key in enumerate(keys(drawn)) if key not in seen and not seen.add(key)]  # type: ignore[func-returns-value]
        if not new:
            raise InputError(f"only {count - missing} of {count} mazes of {size} x {size} squares found: ask for fewer.")
        found.append(drawn[new[:missing]])
        missing -= len(found[-1])
    mazes = np.concatenate([np.zeros((0, size, size), np.int8), *found])
    return MazeSet(mazes, solve(mazes))


def _draw(size: int, count: int, random: np.random.Generator) -> Squares:
    """Draw mazes (count, size, size)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    side = size // 2
    rooms = np.arange(count * side * side).reshape(count, side, side)
    pairs = [(rooms[:, :, :-1], rooms[:, :, 1:]), (rooms[:, :-1], rooms[:, 1:])]
    ends = [np.concatenate([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1)]
    graph = coo_array((1 + random.random(len(ends[0])), tuple(ends)), (rooms.size, rooms.size))  # a weight of 0 is no edge
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()  # a tree for each maze
    mazes = np.full((count, size, size), WALL, np.int8)
    mazes[:, 1::2, 1::2] = OPEN
    one, other = (np.stack(np.unravel_index(part, rooms.shape)) for part in (tree.row, tree.col))
    mazes[one[0], one[1] + other[1] + 1, one[2] + other[2] + 1] = OPEN
    _place(mazes, START, mazes[:, 1::2, 1::2] == OPEN, random)
    away = distances(mazes, START)[:, 1::2, 1::2]
    _place(mazes, GOAL, away >= FAR * away.max((1, 2), keepdims=True), random)
    return mazes


def _place(mazes: Squares, kind: int, allowed: npt.NDArray[np.bool_], random: np.random.Generator) -> None:
    """Make one allowed room (k, n // 2, n // 2) of each maze a square of a kind."""
    drawn = np.where(allowed, random.random(allowed.shape), -1.0).reshape(len(mazes), -1).argmax(1)
    row, column = np.divmod(drawn, allowed.shape[1])
    mazes[np.arange(len(mazes)), 2 * row + 1, 2 * column + 1] = kind


def turned(mazes: Squares, way: int) -> Squares:
    """Return mazes (k, n, n) turned and mirrored in one of 8 ways (0 to 7), of which 0 leaves them as they are."""
    quarters, mirrored = divmod(way, 2)
    squares = np.rot90(mazes, quarters, (1, 2))
    return np.ascontiguousarray(np.swapaxes(squares, 1, 2) if mirrored else squares)


def keys(mazes: Squares) -> list[bytes]:
    """Return a key for each maze. Mazes that differ only by turning, mirroring, or exchanging start and goal have the same."""
    every = np.stack([turned(part, way) for part in (mazes, EXCHANGED[mazes]) for way in range(8)], 1)
    return [min(part.tobytes() for part in parts) for parts in every]
