from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ebt.errors import InputError
from ebt.problems.sudoku.boards import board_errors, format_board, is_solved, parse_board, read_csv, write_csv
from ebt.problems.sudoku.data import SudokuDataset, line_orders, permute_digits
from ebt.problems.sudoku.generator import canonical, count_guesses, generate, make_splits, solutions, units

RANGES = {4: (4, 16), 6: (10, 36), 9: (26, 81)}
SEVENTEEN = Path(__file__).parents[4] / "shared" / "data" / "sudoku" / "sudoku17_solved.csv.gz"
PUZZLE_17 = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"
SOLUTION_17 = "693784512487512936125963874932651487568247391741398625319475268856129743274836159"
HARD = "800000000003600000070090200050007000000045700000100030001000068008500010090000400"  # of A. Inkala
SOLVED_4 = "1234341221434321"

sizes_and_givens = st.sampled_from([4, 6, 9]).flatmap(lambda n: st.tuples(st.just(n), st.integers(*RANGES[n])))
few = settings(max_examples=25, deadline=None)


def keys(grids: np.ndarray, size: int) -> set[bytes]:
    return {grid.tobytes() for grid in canonical(grids, size)}


def brute_force(board: list[int], size: int) -> list[list[int]]:
    """All solutions by trying every digit in every empty cell in turn, with rules written out independently."""
    if 0 not in board:
        return [board]
    rows = 2 if size < 9 else 3
    columns = size // rows
    cell = board.index(0)
    r, c = divmod(cell, size)
    taken = {
        board[i]
        for i in range(size * size)
        if i // size == r or i % size == c or (i // size // rows, i % size // columns) == (r // rows, c // columns)
    }
    free = set(range(1, size + 1)) - taken
    return [found for d in sorted(free) for found in brute_force([*board[:cell], d, *board[cell + 1 :]], size)]


# The solver


@few
@given(size=st.sampled_from([4, 6]), seed=st.integers(0, 1000), data=st.data())
def test_solver_finds_all_solutions(size: int, seed: int, data: st.DataObject) -> None:
    board = generate(size, size * size, 1, seed).solutions[0]
    board[data.draw(st.lists(st.integers(0, size * size - 1), max_size=14))] = 0
    expected = brute_force(board.tolist(), size)
    assert sorted(solutions(board, size, limit=None).tolist()) == sorted(expected)
    assert len(solutions(board, size, limit=2)) == min(2, len(expected))


@pytest.mark.parametrize(("size", "count"), [(4, 12), (6, 39_168)])
def test_solver_counts_the_known_number_of_grids(size: int, count: int) -> None:
    first_row = [*range(1, size + 1)] + [0] * (size * size - size)
    found = solutions(first_row, size, limit=None)
    assert len({row.tobytes() for row in found}) == len(found) == count
    assert is_solved(found, np.tile(first_row, (count, 1)), size).all()


def test_solver_solves_17_givens_and_sees_contradictions() -> None:
    board = np.array(list(PUZZLE_17), dtype=int)
    assert "".join(map(str, solutions(board, 9)[0])) == SOLUTION_17
    board[0] = 1  # a second 1 in its row
    assert solutions(board, 9).shape == (0, 81)
    assert len(solutions(np.zeros(81, dtype=int), 9, limit=5)) == 5


def test_solver_is_quick_where_branching_on_cells_alone_takes_a_minute() -> None:
    board = "000005080000601043000000000010500000000106000300000005530000061000000004000000000"
    start = time.perf_counter()
    assert solutions([int(digit) for digit in board], 9).shape == (0, 81)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("board", "size", "limit", "words"),
    [
        ([0] * 25, 5, 2, "size 5"),
        ([0] * 15, 4, 2, "must be 16"),
        ([5] + [0] * 15, 4, 2, "0 .empty. to 4"),
        ([0.5] * 16, 4, 2, "integers"),
        ([[0] * 16], 4, 2, "one board"),
        ([0] * 16, 4, 0, "limit = 0"),
    ],
)
def test_solver_refuses(board: list[int], size: int, limit: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        solutions(board, size, limit)


# The rating


def plain_guesses(board: list[int], size: int) -> tuple[int, bool]:
    """The guesses of the solver in the docstring, written out with sets, and whether it came to a full board."""
    options = [{digit} if digit else set(range(1, size + 1)) for digit in board]
    while True:
        before = [set(each) for each in options]
        for unit in units(size).tolist():
            for cell in unit:
                for other in set(unit) - {cell} if len(options[cell]) == 1 else ():
                    options[other] -= options[cell]
            for digit in range(1, size + 1):
                places = [cell for cell in unit if digit in options[cell]]
                if len(places) < 2:
                    if not places:
                        return 0, False
                    options[places[0]] = options[places[0]] & {digit}
        if not all(options):
            return 0, False
        if options == before:
            break
    cell = min(range(size * size), key=lambda cell: (len(options[cell]) == 1, len(options[cell]), cell))
    tried = 0
    for digit in sorted(options[cell]) if len(options[cell]) > 1 else ():
        found = [min(each) if len(each) == 1 else 0 for each in options]
        more, solved = plain_guesses([*found[:cell], digit, *found[cell + 1 :]], size)
        tried += 1 + more
        if solved:
            return tried, True
    return tried, len(options[cell]) == 1


def test_guesses_are_counted_as_written_down() -> None:
    assert count_guesses([int(digit) for digit in "0234341221434320"], 4) == 0
    assert count_guesses([int(digit) for digit in "0034341200434321"], 4) == 1  # 1 and 2 can be exchanged
    assert count_guesses([int(digit) for digit in PUZZLE_17], 9) == 0
    assert count_guesses([int(digit) for digit in HARD], 9) > 50
    for size, givens in ((4, 4), (6, 10), (9, 25)):
        for puzzle in generate(size, givens, 12, seed=3).puzzles.tolist():
            assert (count_guesses(puzzle, size), True) == plain_guesses(puzzle, size)
    (puzzle,) = generate(9, 25, 1, seed=4, guesses=5).puzzles.tolist()
    assert (count_guesses(puzzle, 9), True) == plain_guesses(puzzle, 9)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_whether_a_puzzle_needs_guesses_is_the_same_in_any_symmetry(size: int) -> None:
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    puzzles = generate(size, {4: 5, 6: 9, 9: 24}[size], 20, seed=1).puzzles
    if size > 4:
        puzzles = np.concatenate([puzzles, generate(size, {6: 10, 9: 24}[size], 5, 2, guesses=1).puzzles])
    needs = [count_guesses(puzzle, size) > 0 for puzzle in puzzles]
    for puzzle, need in zip(puzzles, needs, strict=True):
        labels = np.array([0, *rng.permutation(size) + 1])
        order = line_orders(size, generator).numpy()
        assert (count_guesses(labels[puzzle][order], size) > 0) == need
    assert size == 4 or (any(needs) and not all(needs))


def test_generated_puzzles_need_as_many_guesses_as_asked() -> None:
    hard = generate(9, 26, 3, seed=0, guesses=3)
    assert min(count_guesses(puzzle, 9) for puzzle in hard.puzzles) >= 3
    assert ((hard.puzzles > 0).sum(1) == 26).all()
    assert is_solved(hard.solutions, hard.puzzles, 9).all()
    with pytest.raises(InputError, match=r"4x4 puzzle with 6 givens that needs 9 guesses or more.*ask for fewer guesses"):
        generate(4, 6, 1, seed=0, guesses=9)


def test_a_board_without_a_solution_has_no_rating() -> None:
    with pytest.raises(InputError, match="no solution"):
        count_guesses([1, 1, *[0] * 14], 4)


# The generator


@few
@given(order=sizes_and_givens, seed=st.integers(0, 2**32))
@example(order=(4, 4), seed=0)
@example(order=(6, 8), seed=0)
@example(order=(9, 24), seed=0)
def test_generated_puzzles_are_unique_with_exact_givens(order: tuple[int, int], seed: int) -> None:
    size, givens = order
    puzzles, solved = generate(size, givens, 2, seed)
    assert puzzles.dtype == solved.dtype == np.int8
    assert ((puzzles > 0).sum(axis=1) == givens).all()
    assert is_solved(solved, puzzles, size).all()
    assert [solutions(puzzle, size).tolist() for puzzle in puzzles] == [[solution.tolist()] for solution in solved]


def test_a_seed_stands_for_the_same_puzzles_as_ever() -> None:
    """Grids are searched for as they are needed, in the order of a search for all of them."""
    puzzles = ["".join(map(str, puzzle)) for puzzle in generate(6, 12, 3, seed=0).puzzles.tolist()]
    assert puzzles == [
        "106205500060000000403001000000300042",
        "000005230000500106000052450000102000",
        "004130020050000000000503006300300210",
    ]


@few
@given(order=sizes_and_givens, seed=st.integers(0, 2**32))
def test_generation_is_deterministic_and_only_appends(order: tuple[int, int], seed: int) -> None:
    size, givens = order
    short, long = generate(size, givens, 1, seed), generate(size, givens, 3, seed)
    assert (long.puzzles[:1] == short.puzzles).all()
    assert (long.solutions[:1] == short.solutions).all()
    assert long.puzzles.shape == long.solutions.shape == (3, size * size)
    assert (generate(size, givens, 1, seed + 1).solutions != short.solutions).any() or size == 4


def test_givens_of_a_range_all_occur() -> None:
    puzzles, _ = generate(6, (10, 20), 150, seed=0)
    assert set((puzzles > 0).sum(axis=1)) == set(range(10, 21))


@pytest.mark.parametrize(("size", "count"), [(4, 12), (6, 300), (9, 20)])
def test_grids_differ_and_excluded_grids_stay_out(size: int, count: int) -> None:
    first = generate(size, RANGES[size][0] + 6, count, seed=1).solutions
    assert len(keys(first, size)) == count
    if size == 9:  # the same seed would draw the same grids again
        assert keys(generate(9, 30, 5, seed=1, exclude=first).solutions, 9).isdisjoint(keys(first, 9))
    else:
        half = first[: count // 2]
        assert keys(generate(size, 12, 40, seed=1, exclude=half).solutions, size).isdisjoint(keys(half, size))


def test_small_grids_and_their_labels_are_drawn_evenly() -> None:
    solved = generate(4, 10, 1200, seed=3).solutions
    _, grids = np.unique(canonical(solved, 4), axis=0, return_counts=True)
    assert grids.tolist() == [100] * 12
    _, labels = np.unique(solved[:, :4], axis=0, return_counts=True)
    assert len(labels) == 24
    assert ((labels - 50) ** 2 / 50).sum() < 60  # chi-squared, 23 degrees of freedom: p = 4e-5


@pytest.mark.parametrize(
    ("size", "givens", "count", "words"),
    [
        (5, 10, 1, "size 5"),
        (9, 23, 1, "from 24 to 81"),
        (6, 7, 1, "from 8 to 36"),
        (4, 3, 1, "from 4 to 16"),
        (6, (12, 10), 1, "range"),
        (6, (10, 37), 1, "from 8 to 36"),
        (6, (10, 12, 14), 1, "range"),
        (6, 10, 0, "count = 0"),
    ],
)
def test_generator_refuses(size: int, givens: int | tuple[int, int], count: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        generate(size, givens, count, seed=0)


def test_generator_says_when_no_grid_is_left() -> None:
    with pytest.raises(InputError, match="exclude fewer"):
        generate(4, 8, 1, seed=0, exclude=generate(4, 8, 12, seed=0).solutions)


# Splits


@pytest.mark.parametrize(
    ("size", "train", "tests", "validation"),
    [
        (4, (6, 8), {"5": (2, 5), "9": (2, 9)}, (2, 8)),
        (4, (200, (6, 9)), {"5": (40, 5), "9": (40, 9)}, (30, 8)),  # more than grids: reused within a set
        (6, (300, (10, 20)), {"10": (50, 10), "14": (50, 14)}, (40, (10, 20))),
        (9, (12, (28, 40)), {"26": (4, 26)}, (4, 30)),
    ],
)
def test_splits_share_no_grid(size: int, train: tuple, tests: dict, validation: tuple) -> None:
    sets = make_splits(size, train, tests, seed=5, validation=validation)
    wanted = {**tests, "validation": validation, "train": train}
    assert sets.keys() == wanted.keys()
    grids = {name: keys(s.solutions, size) for name, s in sets.items()}
    assert len(set.union(*grids.values())) == sum(map(len, grids.values()))
    for name, (count, givens) in wanted.items():
        low, high = givens if isinstance(givens, tuple) else (givens, givens)
        left = (sets[name].puzzles > 0).sum(axis=1)
        assert len(left) == count
        assert low <= left.min() <= left.max() <= high
        assert len(grids[name]) == count or size == 4


def test_splits_do_not_depend_on_order_or_training_size() -> None:
    one = make_splits(6, (30, 15), {"a": (10, 10), "b": (10, 12)}, seed=2)
    two = make_splits(6, (20, 15), {"b": (10, 12), "a": (10, 10)}, seed=2)
    for name in ("a", "b"):
        assert (one[name].puzzles == two[name].puzzles).all()
    assert (one["train"].puzzles[:20] == two["train"].puzzles).all()
    assert (make_splits(6, (20, 15), {}, seed=3)["train"].puzzles != two["train"].puzzles).any()


def test_scarce_grids_are_shared_in_proportion() -> None:
    sets = make_splits(4, (300, 8), {"test": (100, 8)}, seed=0)
    assert (len(keys(sets["train"].solutions, 4)), len(keys(sets["test"].solutions, 4))) == (8, 3)


def test_splits_refuse() -> None:
    with pytest.raises(InputError, match="fewer sets"):
        make_splits(4, (1, 8), {str(i): (1, 8) for i in range(12)}, seed=0)
    with pytest.raises(InputError, match="another name"):
        make_splits(4, (1, 8), {"train": (1, 8)}, seed=0)
    with pytest.raises(InputError, match="from 8 to 36"):
        make_splits(6, (1, 10), {"hard": (1, 7)}, seed=0)
    with pytest.raises(InputError, match="full, valid grids"):
        canonical([0] * 16, 4)


# Text


@few
@given(order=sizes_and_givens, seed=st.integers(0, 1000), empty=st.sampled_from("0._*"), spaced=st.booleans())
def test_text_round_trip(order: tuple[int, int], seed: int, empty: str, spaced: bool) -> None:
    size, givens = order
    puzzle = generate(size, givens, 1, seed).puzzles[0]
    pretty = format_board(puzzle, size).replace(".", empty)
    line = (", " if spaced else "").join(map(str, puzzle)).replace("0", empty)
    for text in (pretty, line):
        assert (parse_board(text, check_unique=True) == puzzle).all()
        assert (parse_board(text, size) == puzzle).all()


def test_format_board() -> None:
    board = [*range(1, 7), 4, 5, 6, 1, 2, 3] + [0] * 24
    assert format_board(board, 6).splitlines()[:4] == ["1 2 3 | 4 5 6", "4 5 6 | 1 2 3", "------+-------", ". . . | . . ."]
    shown = format_board([1, 2, 3, 3] + [0] * 12, 4, puzzle=[1, 4, 0, 0] + [0] * 12)
    assert shown.splitlines()[0] == "[1][2!|  3! 3!"  # a given, a changed given, a repeated digit


@pytest.mark.parametrize(
    ("text", "size", "words"),
    [
        ("", None, "0 cells"),
        ("1" + "0" * 16, None, "17 cells"),
        ("0" * 36, 9, "36 cells"),
        ("0" * 16, 5, "size 5"),
        ("12\n3x", None, "'x' at line 2, character 2"),
        ("0050" + "0" * 12, None, "5 at row 1 column 3"),
        ("00000000\n00000000", None, "line 1 has 8 cells"),
        ("1010" + "0" * 12, None, "digit 1 .* row 1, at row 1 column 1 and row 1 column 3"),
        ("1000000010000000", None, "digit 1 .* column 1"),
        ("1000010000000000", None, "digit 1 .* box 1"),
        ("1230000400000000", None, "no solution"),
        ("1" + "0" * 15, None, "several solutions"),
    ],
)
def test_bad_text_is_refused(text: str, size: int | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_board(text, size, check_unique=True)


def test_comments_of_text() -> None:
    text = "# mine\n1*.. # first\n\n..__#second\n0000\n0 0 0 0"
    assert parse_board(text).tolist() == parse_board("1" + "0" * 15 + " # the same").tolist() == [1] + [0] * 15


def test_several_solutions_pass_unless_asked() -> None:
    assert parse_board("1" + "." * 15).tolist() == [1] + [0] * 15


# CSV


@pytest.mark.parametrize("name", ["boards.csv", "boards.csv.gz"])
@pytest.mark.parametrize("size", [4, 6, 9])
def test_csv_round_trip(tmp_path: Path, name: str, size: int) -> None:
    made = generate(size, RANGES[size][0] + 3, 5, seed=0)
    write_csv(tmp_path / name, *made)
    for check in ("unique", "rules"):
        read = read_csv(tmp_path / name, check=check)
        assert (read.puzzles == made.puzzles).all()
        assert (read.solutions == made.solutions).all()
        assert read.puzzles.shape[1] == size**2
    first = (tmp_path / name).read_bytes()
    write_csv(tmp_path / name, *made)
    assert (tmp_path / name).read_bytes() == first


@pytest.mark.parametrize(
    "text",
    [
        f"puzzle,solution\n{PUZZLE_17},{SOLUTION_17}\n",
        f"{PUZZLE_17},{SOLUTION_17}\r\n",
        f"\ufeffid,Solution,Puzzle\n\n7,{SOLUTION_17},{PUZZLE_17.replace('0', '.')}",
        f"puzzle\n{PUZZLE_17}\n",
        PUZZLE_17,
        f"quizzes,solutions\n{PUZZLE_17},{SOLUTION_17}\n",
        f'source,question,answer,rating\n"a, b #1",{PUZZLE_17.replace("0", ".")},{SOLUTION_17},3\n',
        f"# two comments\n\nQuestion\n{PUZZLE_17.replace('0', '_')}  # the second, with a comma\n",
        f"{PUZZLE_17.replace('0', '*')},{SOLUTION_17},further,columns\n",
        f"{PUZZLE_17.replace('0', '_')},{SOLUTION_17}",
        f"# semicolons, as spreadsheets write them\n\nid;puzzle;solution\n1;{PUZZLE_17};{SOLUTION_17}\n",
        f'"{PUZZLE_17}";"{SOLUTION_17}"\n',
        f"puzzle\tsolution\n{PUZZLE_17}\t{SOLUTION_17}\n",
    ],
)
def test_csv_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    puzzles, solved = read_csv(tmp_path / "a.csv", size=9)
    assert "".join(map(str, puzzles[0])) == PUZZLE_17
    assert "".join(map(str, solved[0])) == SOLUTION_17


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("123,123", "the puzzle has 3 cells, .* 4x4: give 16"),
        (f"{SOLVED_4},123", "the solution has 3 cells"),
        (f"123x{SOLVED_4[4:]},{SOLVED_4}", "'x' as character 4"),
        (f"123é{SOLVED_4[4:]},{SOLVED_4}", "'é' as character 4"),
        (f"1235{SOLVED_4[4:]},{SOLVED_4}", "'5' as character 4"),
        (f"1100{'0' * 12},{SOLVED_4}", "contradict each other, digit 1 .* row 1, at row 1 column 1 and row 1 column 2"),
        (f"2000{'0' * 12},{SOLVED_4}", "solution has 1 at row 1 column 1 where the puzzle has 2"),
        (f"1000{'0' * 12},{SOLVED_4[:15]}.", "empty at row 4 column 4"),
        (f"1000{'0' * 12},{SOLVED_4[:15]}2", "invalid, digit 2"),
        (f"1000{'0' * 12},{SOLVED_4}", "several solutions"),
        (SOLVED_4, "1 fields instead of 2"),
    ],
)
def test_bad_csv_lines_are_refused(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"puzzle,solution\n{SOLVED_4},{SOLVED_4}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"bad.csv, line 3: .*{words}"):
        read_csv(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no puzzles"),
        (b"puzzle,solution\n", "no puzzles"),
        (b"board,answer\n1,2\n", "header .board,answer."),
        (b"12,12\n", "line 1: A board of 2 cells"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"puzzle\n1230000400000000\n", "line 2: the puzzle has no solution"),
        (b"puzzle\n1000000000000000\n", "line 2: the puzzle has several"),
    ],
)
def test_bad_csv_files_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    for name, data in (("a.csv", content), ("a.csv.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=words):
            read_csv(tmp_path / name, check="rules")


def test_csv_faults_outside_the_lines(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv cannot be read"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(PUZZLE_17.encode())[:-9])
    with pytest.raises(InputError, match=r"cut.csv.gz cannot be read"):
        read_csv(tmp_path / "cut.csv.gz")
    made = generate(4, 8, 3, seed=0)
    with pytest.raises(InputError, match="cannot be written"):
        write_csv(tmp_path / "no" / "folder.csv", *made)
    with pytest.raises(InputError, match="Puzzle 0"):
        write_csv(tmp_path / "a.csv", made.puzzles, made.puzzles)
    write_csv(tmp_path / "a.csv", *made)
    with pytest.raises(InputError, match="6x6: give 36"):
        read_csv(tmp_path / "a.csv", size=6)
    with pytest.raises(InputError, match="size 5"):
        read_csv(tmp_path / "a.csv", size=5)
    with pytest.raises(InputError, match="'all'"):
        read_csv(tmp_path / "a.csv", check="all")  # type: ignore[arg-type]


def test_none_checks_lengths_and_characters_only(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"11{'0' * 14},{'2' * 16}\n")
    assert read_csv(tmp_path / "a.csv", check="none").solutions.tolist() == [[2] * 16]
    with pytest.raises(InputError, match="line 1: the givens contradict"):
        read_csv(tmp_path / "a.csv", check="rules")
    (tmp_path / "b.csv").write_text(f"11{'0' * 14},{'5' * 16}\n")
    with pytest.raises(InputError, match=r"line 1: the solution has '5'"):
        read_csv(tmp_path / "b.csv", check="none")


def test_large_files_are_read_in_parts_and_checked_by_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebt.problems.sudoku.boards.LARGE", 3)
    made = generate(4, 6, 8, seed=0)
    write_csv(tmp_path / "large.csv.gz", *made)
    read = read_csv(tmp_path / "large.csv.gz")
    assert (read.puzzles == made.puzzles).all()
    assert (read.solutions == made.solutions).all()
    many = f"1{'0' * 15},{SOLVED_4}\n"  # of many solutions
    (tmp_path / "many.csv").write_text(many * 4)
    assert len(read_csv(tmp_path / "many.csv").puzzles) == 4
    for text, check in ((many * 3, None), (many * 4, "unique")):
        (tmp_path / "many.csv").write_text(text)
        with pytest.raises(InputError, match="line 1: the puzzle has several"):
            read_csv(tmp_path / "many.csv", check=check)  # type: ignore[arg-type]
    (tmp_path / "bad.csv").write_text(many * 5 + f"2{'0' * 15},{SOLVED_4}\n")
    with pytest.raises(InputError, match="line 6: the solution has 1"):
        read_csv(tmp_path / "bad.csv")


SDK = "#A someone\n[Puzzle]\n1..4\n....\n...1\n4.2.\n[State]\n1234\n3412\n2341\n4123\n"
SS = "*-----*\n|1.|.4|\n|..|..|\n|--+--|\n|..|.1|\n|4.|2.|\n*-----*\n"


@pytest.mark.parametrize(("name", "text"), [("a.sdk", SDK), ("a.ss", SS), ("b.ss", SS.replace("|", "").replace(".", "*"))])
def test_files_of_one_board(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    puzzle = [1, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0, 2, 0]
    puzzles, solved = read_csv(tmp_path / name)
    assert puzzles.tolist() == [puzzle]
    assert solved.tolist() == brute_force(puzzle, 4)
    assert parse_board(text, 4, check_unique=True).tolist() == puzzle
    with pytest.raises(InputError, match=rf"{name} has 16 cells.* 9x9: give 81"):
        read_csv(tmp_path / name, size=9)
    for other in (name.upper(), f"{name}.gz", f"{name}.GZ"):
        (tmp_path / other).write_bytes(text.encode() if other == name.upper() else gzip.compress(text.encode()))
        assert read_csv(tmp_path / other).puzzles.tolist() == [puzzle]


def test_rules_check_takes_uniqueness_on_trust(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"1{'0' * 15},{SOLVED_4}\n")
    assert read_csv(tmp_path / "a.csv", check="rules").solutions.tolist() == [[int(c) for c in SOLVED_4]]


@pytest.mark.skipif(not SEVENTEEN.exists(), reason="needs the benchmark data beside the checkout")
def test_the_17_clue_collection_reads() -> None:
    puzzles, solved = read_csv(SEVENTEEN, check="rules")
    assert puzzles.shape == solved.shape == (49_151, 81)
    assert ((puzzles > 0).sum(axis=1) == 17).all()
    for i in range(0, len(puzzles), 500):
        assert solutions(puzzles[i], 9).tolist() == [solved[i].tolist()]


# Checks of boards


@few
@given(size=st.sampled_from([4, 6, 9]), seed=st.integers(0, 1000), data=st.data())
def test_errors_and_solved_agree_with_the_rules(size: int, seed: int, data: st.DataObject) -> None:
    made = generate(size, (RANGES[size][0] + 4, size * size), 3, seed)
    board = made.solutions[1].copy()
    cell, digit = data.draw(st.integers(0, size * size - 1)), data.draw(st.integers(0, size))
    changed = board[cell] != digit
    board[cell] = digit
    boards = np.stack([made.solutions[0], board, made.solutions[2]])
    assert is_solved(boards, made.puzzles, size).tolist() == [True, not changed, True]
    wrong = board_errors(boards, size)
    assert not wrong[[0, 2]].any()
    expected = np.zeros(size * size, dtype=bool)
    if changed and digit:  # a digit in a full grid clashes with itself in its row and its column, perhaps in its box
        for i in np.flatnonzero(board == digit):
            expected[i] = i == cell or not brute_force_allows(board, int(i), cell, size)
    assert (wrong[1] == expected).all()


def brute_force_allows(board: np.ndarray, one: int, other: int, size: int) -> bool:
    rows = 2 if size < 9 else 3
    columns = size // rows
    (r, c), (s, d) = divmod(one, size), divmod(other, size)
    return r != s and c != d and (r // rows, c // columns) != (s // rows, d // columns)


def test_a_valid_board_that_changes_a_given_is_not_solved() -> None:
    made = generate(6, 12, 2, seed=0)
    assert is_solved(made.solutions, made.puzzles, 6).all()
    assert not is_solved(made.solutions[::-1], made.puzzles, 6).any()
    assert is_solved(made.solutions[0], made.puzzles[0], 6).shape == ()
    with pytest.raises(InputError, match="one puzzle per board"):
        is_solved(made.solutions, made.puzzles[:1], 6)
    with pytest.raises(InputError, match=r"0 .empty. to 6"):
        board_errors(made.solutions + 1, 6)


# Tensors


@pytest.fixture(scope="module", params=[4, 6, 9])
def made(request: pytest.FixtureRequest) -> tuple[int, np.ndarray, np.ndarray]:
    return request.param, *generate(request.param, (RANGES[request.param][0] + 4, request.param**2 - 4), 8, seed=0)


def test_dataset_items(made: tuple[int, np.ndarray, np.ndarray]) -> None:
    size, puzzles, solved = made
    data = SudokuDataset(puzzles, solved, size)
    item = data[3]
    assert len(data) == 8
    assert item.keys() == {"puzzle", "solution"}
    assert all(board.dtype == torch.int64 and board.shape == (size * size,) for board in item.values())
    assert item["puzzle"].tolist() == puzzles[3].tolist()
    assert item["solution"].tolist() == solved[3].tolist()
    with pytest.raises(IndexError):
        data[8]


def test_permutations_keep_puzzles_valid_and_depend_on_seed_epoch_and_index(made: tuple[int, np.ndarray, np.ndarray]) -> None:
    size, puzzles, solved = made

    def epoch(seed: int, number: int, workers: int = 0) -> dict[str, torch.Tensor]:
        data = SudokuDataset(puzzles, solved, size, permute_digits=True, seed=seed)
        data.set_epoch(number)
        return next(iter(DataLoader(data, batch_size=8, num_workers=workers)))

    first = epoch(0, 0)
    assert is_solved(first["solution"].numpy(), first["puzzle"].numpy(), size).all()
    assert (canonical(first["solution"].numpy(), size) == canonical(solved, size)).all()
    assert ((first["puzzle"].numpy() > 0) == (puzzles > 0)).all()
    assert torch.equal(first["solution"], epoch(0, 0)["solution"])
    assert torch.equal(epoch(0, 4)["solution"], epoch(0, 4, workers=1)["solution"])
    for other in (epoch(1, 0), epoch(0, 1)):
        assert not torch.equal(first["solution"], other["solution"])


def test_persistent_workers_see_a_new_epoch() -> None:
    data = SudokuDataset(*generate(6, 12, 4, seed=0), 6, permute_digits=True)
    loader = DataLoader(data, batch_size=4, num_workers=1, persistent_workers=True)
    before = next(iter(loader))["solution"]
    data.set_epoch(1)
    after = next(iter(loader))["solution"]
    assert not torch.equal(before, after)
    assert torch.equal(after, torch.stack([data[i]["solution"] for i in range(4)]))


def test_permuted_batch(made: tuple[int, np.ndarray, np.ndarray]) -> None:
    size, puzzles, solved = made
    batch = {"puzzle": torch.tensor(puzzles), "solution": torch.tensor(solved)}
    new = permute_digits(batch, torch.Generator().manual_seed(0))
    again = permute_digits(batch, torch.Generator().manual_seed(0))
    assert all(torch.equal(new[name], again[name]) and new[name].dtype == torch.int8 for name in batch)
    assert is_solved(new["solution"].numpy(), new["puzzle"].numpy(), size).all()
    assert (canonical(new["solution"].numpy(), size) == canonical(solved, size)).all()


def test_batch_permutations_are_even_and_differ_between_boards() -> None:
    grid = torch.tensor(generate(4, 8, 1, seed=0).solutions).repeat(2400, 1)
    rows = permute_digits({"solution": grid}, torch.Generator().manual_seed(0))["solution"][:, :4]
    _, counts = rows.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert float(((counts - 100) ** 2 / 100).sum()) < 60  # chi-squared, 23 degrees of freedom: p = 4e-5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p, s: SudokuDataset(p, p, 4), "Puzzle 0 .* the solution is empty"),
        (lambda p, s: SudokuDataset(p, s[:1], 4), "one puzzle per board"),
        (lambda p, s: SudokuDataset(p, s, 9), "must be 81"),
        (lambda p, s: SudokuDataset(p[0], s[0], 4), "shape .16,."),
        (lambda p, s: SudokuDataset(p, s, 4, seed=-1), "seed = -1"),
        (lambda p, s: SudokuDataset(p, s, 4).set_epoch(-1), "epoch = -1"),
        (lambda p, s: permute_digits({}, torch.Generator()), "at least one"),
        (lambda p, s: permute_digits({"a": torch.zeros(16)}, torch.Generator()), "B, cells"),
        (lambda p, s: permute_digits({"a": torch.zeros(2, 15)}, torch.Generator()), "15 cells"),
    ],
)
def test_bad_tensors_are_refused(make: Callable, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(*generate(4, 8, 2, seed=0))
