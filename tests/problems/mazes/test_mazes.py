"""Mazes: the generator, the exact solution, text and files, batches."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import shortest_path as scipy_shortest_path

from ebt.errors import InputError
from ebt.problems.mazes.data import MazeDataModule, MazeDataset
from ebt.problems.mazes.generator import EXCHANGED, generate, keys, turned
from ebt.problems.mazes.grids import (
    GOAL,
    OPEN,
    START,
    WALL,
    MazeSet,
    check_mazes,
    format_maze,
    parse_maze,
    read_mazes,
    solve,
    surround,
    unframed,
    write_mazes,
)

LINES = [
    "#######",
    "#S..  #",
    "###.###",
    "#  ...#",
    "# ###.#",
    "#   #G#",
    "#######",
]
MAZE = "\n".join(LINES)
SIZES = st.sampled_from(range(7, 33, 2))


def graph(maze: Any) -> Any:
    """Moves between all squares of a maze, written out."""
    size = len(maze)
    moves = np.zeros((size * size, size * size))
    for row, column in np.argwhere(maze != WALL):
        for down, right in ((0, 1), (1, 0)):
            if maze[row + down, column + right] != WALL:
                moves[row * size + column, (row + down) * size + column + right] = 1
    return moves + moves.T


@given(SIZES, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_mazes_are_perfect(size: int, seed: int) -> None:
    mazes, paths = generate(size, 3, seed)
    assert mazes.shape == paths.shape == (3, size, size)
    side = size // 2
    for maze, path in zip(mazes, paths, strict=True):
        ways = maze != WALL
        assert ways[1::2, 1::2].all()
        assert not ways[::2, ::2].any()
        assert ways.sum() == 2 * side * side - 1  # a tree: one way less than rooms
        assert label(ways)[1] == 1  # and it is connected
        assert [int((maze == kind).sum()) for kind in (START, GOAL)] == [1, 1]
        on = graph(np.where(path == 1, maze, WALL)).sum(1).reshape(size, size)[path == 1]
        assert sorted(on) == [1, 1] + [2] * (len(on) - 2)  # a line from S to G
        assert (path[(maze == START) | (maze == GOAL)] == 1).all()


@given(SIZES.filter(lambda size: size <= 13), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_paths_are_the_shortest_and_goals_far(size: int, seed: int) -> None:
    mazes, paths = generate(size, 2, seed)
    for maze, path in zip(mazes, paths, strict=True):
        start, goal = (int(np.flatnonzero(maze == kind)[0]) for kind in (START, GOAL))
        moves = scipy_shortest_path(graph(maze), unweighted=True, indices=[start])[0]
        assert path.sum() - 1 == moves[goal]
        rooms = moves.reshape(size, size)[1::2, 1::2]
        assert moves[goal] >= rooms.max() / 2
        assert connected_components(graph(maze))[0] == (maze == WALL).sum() + 1


@given(st.integers(0, 2**31), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_the_solver_is_exact_on_mazes_with_loops(seed: int, opened: int) -> None:
    random = np.random.default_rng(seed)
    maze = generate(11, 1, seed).mazes[0]
    inner = maze[1:-1, 1:-1]
    walls = np.argwhere(inner == WALL)
    for row, column in random.permutation(walls)[:opened]:
        inner[row, column] = OPEN
    start, goal = (int(np.flatnonzero(maze == kind)[0]) for kind in (START, GOAL))
    moves = graph(maze)
    ahead, back = scipy_shortest_path(moves, unweighted=True, indices=[start, goal])
    on = ahead + back == ahead[goal]
    if on.sum() == ahead[goal] + 1:
        assert (solve(maze[None])[0].reshape(-1) == on).all()
    else:
        with pytest.raises(InputError, match=r"maze 1 of mazes has several shortest paths.*close all but one"):
            solve(maze[None])


def test_a_seed_gives_the_same_mazes_and_no_two_alike() -> None:
    one, again, other = generate(9, 50, 3), generate(9, 50, 3), generate(9, 50, (3, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one.mazes, other.mazes)
    assert len(set(keys(one.mazes))) == 50
    apart = generate(9, 50, 3, exclude=keys(one.mazes))
    assert not set(keys(apart.mazes)) & set(keys(one.mazes))
    assert generate(9, 0).mazes.shape == (0, 9, 9)


@given(st.integers(0, 2**31), st.integers(0, 7), st.booleans())
@settings(max_examples=20, deadline=None)
def test_keys_and_paths_follow_the_symmetries(seed: int, way: int, exchange: bool) -> None:
    mazes, paths = generate(9, 4, seed)
    seen = turned(EXCHANGED[mazes] if exchange else mazes, way)
    assert keys(seen) == keys(mazes)
    assert np.array_equal(solve(seen), turned(paths, way))
    assert len({turned(mazes, other).tobytes() for other in range(8)}) == 8


def test_too_few_mazes_are_refused() -> None:
    with pytest.raises(InputError, match=r"of 100000 mazes of 7 x 7 squares found: ask for fewer"):
        generate(7, 100_000)


@pytest.mark.parametrize("size", [6, 8, 5, 33])
def test_sizes_are_odd_and_within_limits(size: int) -> None:
    with pytest.raises(InputError, match=f"size is {size}: mazes have an odd number of squares on a side, from 7 to 31"):
        generate(size, 1)


# Text and files


def test_text_is_read_and_printed() -> None:
    maze = parse_maze(MAZE)
    assert format_maze(maze) == MAZE.replace(".", " ")
    assert format_maze(maze, solve(maze[None])[0]) == MAZE
    assert np.array_equal(parse_maze("\n   " + "\n   ".join(LINES) + "\r\n"), maze)
    assert format_maze(maze.reshape(-1), solve(maze[None]).reshape(-1)) == MAZE


@given(SIZES, st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_text_survives_a_round_trip(size: int, seed: int) -> None:
    mazes, paths = generate(size, 1, seed)
    assert np.array_equal(parse_maze(format_maze(mazes[0], paths[0])), mazes[0])


def changed(row: int, line: str) -> str:
    return "\n".join([*LINES[:row], line, *LINES[row + 1 :]])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (changed(1, "#S.x  #"), r"the maze has 'x' in row 2: use # \(wall\)"),
        (changed(1, "#S. #"), r"has 7 rows, and row 2 has 5 squares: give as many squares in each row"),
        ("\n".join(LINES[:1] * 6).replace("#######", "######"), r"has 6 rows: give an odd number of rows, from 7 to 31"),
        ("\n".join(["#" * 5] * 5), r"has 5 rows: give an odd number of rows"),
        (changed(1, "#...  #"), r"the maze has no start: give exactly one S"),
        (changed(4, "# ###G#"), r"the maze has 2 goals: give exactly one G"),
        (changed(4, "# #####"), r"the goal of the maze cannot be reached from its start: open a way between S and G"),
        (changed(6, "#.#####"), r"the maze is open at its border, in row 7 column 2: surround it with walls"),
        ("", r"the maze has 0 rows"),
        (
            "#######\n#S....#\n#.###.#\n#.###.#\n#.###.#\n#....G#\n#######",
            r"the maze has several shortest paths from S to G: close all but one of them",
        ),
    ],
)
def test_bad_text_names_the_fault_and_a_remedy(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_maze(text)


@pytest.mark.parametrize(
    ("mazes", "told"),
    [
        (np.zeros((2, 9)), r"mazes has shape \(2, 9\): give squares of shape \(k, n, n\)"),
        (np.zeros((1, 8, 8)), "size is 8"),
        (np.full((1, 7, 7), 4), "has squares other than 0"),
        (np.zeros((1, 7, 7)), "maze 1 of mazes has no start"),
    ],
)
def test_bad_arrays_are_refused(mazes: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        check_mazes(mazes)


def test_files_hold_mazes_of_several_sizes(tmp_path: Path) -> None:
    small, large = generate(7, 2, 0), generate(11, 1, 0)
    write_mazes(tmp_path / "small.txt", *small)
    write_mazes(tmp_path / "large.txt", large.mazes)
    assert np.array_equal(read_mazes(tmp_path / "small.txt").paths, small.paths)
    both = (tmp_path / "small.txt").read_text() + "\n\n" + (tmp_path / "large.txt").read_text()
    (tmp_path / "both.txt").write_text(both)
    found = read_mazes(tmp_path / "both.txt")
    assert np.array_equal(found.mazes, np.concatenate([surround(small.mazes, 11), large.mazes]))
    assert np.array_equal(found.paths[:2, :7, :7], small.paths)
    assert all(np.array_equal(unframed(maze), own) for maze, own in zip(found.mazes, small.mazes, strict=False))
    assert not found.paths[:2, 7:].any()


def test_files_may_be_compressed_and_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(MAZE, encoding="utf-8-sig")
    (tmp_path / "a.txt.gz").write_bytes(whole := gzip.compress(MAZE.encode()))
    (tmp_path / "cut.txt.gz").write_bytes(whole[:-9])
    for name in ("a.txt", "a.txt.gz"):
        assert np.array_equal(read_mazes(tmp_path / name).mazes[0], parse_maze(MAZE))
    with pytest.raises(InputError, match=r"cut\.txt\.gz cannot be read"):
        read_mazes(tmp_path / "cut.txt.gz")


def test_a_file_names_the_line_of_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "mazes.txt"
    file.write_text(f"{MAZE}\n\n\n{changed(1, '#...  #')}\n")
    with pytest.raises(InputError, match=r"mazes.txt, line 10 has no start"):
        read_mazes(file)
    file.write_text("\n\n")
    with pytest.raises(InputError, match=r"mazes.txt has no maze"):
        read_mazes(file)
    with pytest.raises(InputError, match=r"none.txt cannot be read"):
        read_mazes(tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"cannot be written"):
        write_mazes(tmp_path / "no" / "folder" / "mazes.txt", generate(7, 1).mazes)


# Batches

SMALL: dict[str, Any] = {"train_count": 21, "validation_count": 4, "test_sizes": (7, 13), "test_count": 3, "batch_size": 5}


def epoch(data: MazeDataModule, number: int = 0) -> dict[str, torch.Tensor]:
    """All batches of one epoch."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[union-attr]
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_sets_share_no_maze_and_tell_their_sizes() -> None:
    data = MazeDataModule((7, 9), **SMALL)
    told = data.statistics()
    assert told["mazes"] == {"size_7": 3, "size_13": 3, "validation": 4, "train": 21}
    assert told["size"] == {"size_7": 7, "size_13": 13, "validation": 9, "train": 9}
    assert data.test_names == ["size_7", "size_13"]
    every = [set(keys(surround(part.mazes, 13))) for part in data.sets.values()]
    assert len(set.union(*every)) == sum(len(part.mazes) for part in data.sets.values())
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["maze"], torch.from_numpy(data.sets["validation"].mazes).flatten(1))
    assert [len(batch["maze"]) for loader in data.test_dataloader() for batch in loader] == [3, 3]


def test_other_counts_leave_the_held_out_mazes_as_they_are() -> None:
    one, other = MazeDataModule((7, 9), **SMALL), MazeDataModule((7, 9), **{**SMALL, "train_count": 40})
    one.prepare()
    other.prepare()
    for name in ("validation", *one.test_names):
        assert np.array_equal(one.sets[name].mazes, other.sets[name].mazes)


def test_training_mazes_turn_with_the_epoch() -> None:
    data = MazeDataModule((9,), **SMALL)
    first, again, second = epoch(data), epoch(MazeDataModule((9,), **SMALL)), epoch(data, 1)
    assert first["maze"].shape == (20, 81)  # four batches of 5; the rest of 1 is left out
    assert all(torch.equal(first[key], again[key]) for key in first)
    own = set(keys(data.sets["train"].mazes))
    for part in (first, second):
        mazes = part["maze"].view(-1, 9, 9).numpy()
        assert np.array_equal(solve(mazes), part["path"].view(-1, 9, 9).numpy())
        assert set(keys(mazes.astype(np.int8))) <= own
    plain = epoch(MazeDataModule((9,), **SMALL, turn=False))
    stored = {maze.tobytes() for maze in data.sets["train"].mazes}
    assert {row.to(torch.int8).numpy().tobytes() for row in plain["maze"]} <= stored
    assert not {row.to(torch.int8).numpy().tobytes() for row in first["maze"]} <= stored


def test_all_symmetries_are_drawn() -> None:
    mazes, paths = generate(11, 1)
    many = MazeDataset(MazeSet(*(np.repeat(part, 200, 0) for part in (mazes, paths))), turn=True)
    assert len({bytes(many[i]["maze"].to(torch.int8).numpy()) for i in range(200)}) == 16


def test_larger_mazes_come_in_smaller_batches() -> None:
    data = MazeDataModule((7,), 20, 2, (15, 21, 31), 20, evaluation_batch_size=20)
    assert [len(next(iter(loader))["maze"]) for loader in data.test_dataloader()] == [20, 5, 1]


def test_files_replace_all_sets(tmp_path: Path) -> None:
    for name, size in (("train", 9), ("valid", 7), ("test", 11)):
        write_mazes(tmp_path / f"{name}.txt", generate(size, 4).mazes)
    files = {"train_file": str(tmp_path / "train.txt"), "validation_file": str(tmp_path / "valid.txt")}
    data = MazeDataModule(**files, test_files={"own": str(tmp_path / "test.txt")}, batch_size=2)  # type: ignore[arg-type]
    assert data.statistics()["size"] == {"train": 9, "validation": 7, "own": 11}
    assert data.test_names == ["own"]
    with pytest.raises(InputError, match="There are no test mazes"):
        MazeDataModule(**files).test_dataloader()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"train_sizes": (8,)}, "size is 8"),
        ({"train_sizes": ()}, r"train_sizes is \[\]"),
        ({"test_sizes": (33,)}, "size is 33"),
        ({"train_count": 1}, "at least one maze of each"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed=-1"),
        ({"train_file": "a.txt"}, "give both train_file and validation_file"),
        ({"test_files": {"own": "a.txt"}}, "give both train_file and validation_file"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        MazeDataModule(**wrong)
