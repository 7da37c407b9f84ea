from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import program
from matplotlib.image import imread
from small_models import close, language_folder, sudoku_ebt, sudoku_folder, sudoku_rival

from ebt.cli.main import main
from ebt.files import finite
from ebt.problems.folder import save_folder
from ebt.problems.sudoku.boards import board_errors, is_solved, parse_board, write_csv
from ebt.problems.sudoku.generator import generate
from ebt.problems.sudoku.metrics import sudoku_curve, watch_board
from ebt.problems.sudoku.models import EBTForSudoku

PUZZLE = "...31..44..1...."
SOLUTION = [int(digit) for digit in "2413132442313142"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sudoku_folder(tmp_path_factory.mktemp("sudoku") / "model")


def test_a_process_shows_boards_and_writes_the_thinking(folder: str, tmp_path: Path) -> None:
    command = ["-m", "ebt.cli.main", "solve", "--checkpoint", folder, PUZZLE]
    options = ["--steps", "4", "--candidates", "3", "--seed", "2", "--out", str(tmp_path)]
    done = program(*command, *options)
    read = json.loads((tmp_path / "solve.json").read_text())
    watched = watch_board(sudoku_ebt(), torch.from_numpy(parse_board(PUZZLE, 4)), steps=4, candidates=3, seed=2)
    assert close(read, finite(watched) | {"solution": SOLUTION, "solved": watched.boards[-1] == SOLUTION, "attempts": 1})
    assert imread(tmp_path / "board.png").shape[0] > 200
    for step in (0, 1, 2, 4):
        assert f"{'start' if step == 0 else f'step {step}'}: energy {watched.energies[step]:.4g}" in done.stdout
    conflicts = int(board_errors(np.array(watched.boards[-1], dtype=np.int8), 4).sum())
    right = sum(d == s for d, s, p in zip(watched.boards[-1], SOLUTION, PUZZLE, strict=True) if p == ".")
    assert f"not solved: {conflicts} cells in conflict (marked !); {right} of 11 empty cells right" in done.stdout
    assert f"candidate {watched.winner + 1} of 3 won" in done.stdout
    assert f"{3 * 5} forward and {3 * 4} backward passes" in done.stdout


def test_in_a_terminal_the_board_fills_in_live(
    folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("ebt.cli.solve.SECONDS", 0.01)
    assert main(["solve", "--checkpoint", folder, PUZZLE, "--steps", "3"]) == 0
    frames = capsys.readouterr().out.split("\x1b[1A")  # the cursor goes up: the board is drawn in place
    shown = [name for frame in frames for name in re.findall(r"(start|step \d): energy", frame)]
    assert shown[-4:] == ["start", "step 1", "step 2", "step 3"] or list(dict.fromkeys(shown)) == [
        "start",
        "step 1",
        "step 2",
        "step 3",
    ]


def test_a_solved_board_is_called_solved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one empty cell and these weights, the model finds the digit."""
    puzzle, missing = PUZZLE, -1
    model = sudoku_ebt()
    for missing in range(16):
        puzzle = "".join("." if i == missing else str(digit) for i, digit in enumerate(SOLUTION))
        if watch_board(model, torch.from_numpy(parse_board(puzzle, 4)), steps=3).boards[-1] == SOLUTION:
            break
    folder = sudoku_folder(tmp_path / "model")
    assert main(["solve", "--checkpoint", folder, puzzle, "--steps", "3", "--out", str(tmp_path / "out")]) == 0
    assert "solved, a valid board that keeps every given; 1 of 1 empty cells right" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "solve.json").read_text())["solved"] is True


def test_few_cells_take_one_thread(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads, think = [], EBTForSudoku.think

    def seen(*args: Any, **options: Any) -> Any:
        threads.append(torch.get_num_threads())
        return think(*args, **options)

    monkeypatch.setattr(EBTForSudoku, "think", seen)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for candidates in ("64", "65"):
            assert main(["solve", "--checkpoint", folder, PUZZLE, "--steps", "1", "--candidates", candidates]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 2]


def test_a_new_puzzle_has_as_many_givens_as_asked_for(folder: str, tmp_path: Path) -> None:
    def puzzle(seed: str) -> list[int]:
        assert (
            main(["solve", "--checkpoint", folder, "--givens", "6", "--seed", seed, "--steps", "2", "--out", str(tmp_path)])
            == 0
        )
        read: list[int] = json.loads((tmp_path / "solve.json").read_text())["puzzle"]
        return read

    first = puzzle("1")
    assert sum(digit > 0 for digit in first) == 6
    assert first == puzzle("1") != puzzle("2")


def test_statistics_over_a_file(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = generate(4, 8, 6, seed=3)
    write_csv(tmp_path / "puzzles.csv", *made)
    options = ["--csv", str(tmp_path / "puzzles.csv"), "--steps", "5", "--candidates", "2", "--tolerance", "0.01"]
    assert main(["solve", "--checkpoint", folder, *options, "--seed", "4", "--out", str(tmp_path)]) == 0
    boards = (torch.from_numpy(array) for array in made)
    point = sudoku_curve(sudoku_ebt(), *boards, [5], [2], tolerance=0.01, seed=4).points[0]
    read, out = json.loads((tmp_path / "solve.json").read_text()), capsys.readouterr().out
    for name in ("exact", "cell", "energy", "board_auroc"):
        assert read[name] == pytest.approx(getattr(point, name)), name
    (attempt,) = read["attempts"]
    assert (attempt["steps"], attempt["candidates"], attempt["seed"], attempt["puzzles"]) == (5, 2, 4, 6)
    assert (attempt["forward"], attempt["backward"]) == pytest.approx((6 * point.forward, 6 * point.backward))
    assert f"{round(6 * point.exact)} of 6" in out
    assert f"{100 * point.cell:.2f} %" in out
    assert f"{point.forward:.1f} forward, {point.backward:.1f} backward passes" in out


def solutions_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "solutions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("loop", [None, "none", "hidden", "recursive"])
def test_boards_of_a_file_are_written(loop: str | None, tmp_path: Path) -> None:
    made = generate(4, (8, 15), 70, seed=3)
    write_csv(tmp_path / "puzzles.csv", *made)
    model, steps = sudoku_ebt() if loop is None else sudoku_rival(loop), "1" if loop == "none" else "3"
    command = ["solve", "--checkpoint", sudoku_folder(tmp_path / "model", loop=loop), "--csv", str(tmp_path / "puzzles.csv")]
    assert main([*command, "--steps", steps, "--out", str(tmp_path)]) == 0
    rows = solutions_of(tmp_path)
    assert [row["puzzle"] for row in rows] == ["".join(map(str, puzzle)) for puzzle in made.puzzles]
    predicted = np.array([[int(digit) for digit in row["prediction"]] for row in rows])
    right = is_solved(predicted, made.puzzles, 4)
    assert [row["valid"] for row in rows] == ["true" if one else "false" for one in right]
    puzzles = torch.from_numpy(made.puzzles).long()
    if loop is None:
        thoughts = [model.think(part, steps=3, candidates=1) for part in puzzles.split(64)]
        energies = torch.cat([thought.energies[-1].sum(1) for thought in thoughts])
        assert [float(row["energy"]) for row in rows] == pytest.approx(energies.tolist(), rel=1e-5)
    else:
        assert {row["energy"] for row in rows} == {""}
        words = model(puzzles, int(steps))[-1].argmax(-1)
        empty = puzzles == 0
        assert torch.equal(torch.from_numpy(predicted)[empty], words[empty] + 1)


def test_it_thinks_on_until_the_boards_are_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With starts too far out to be left, the model guesses: of two empty cells, one of many restarts is right."""
    model = sudoku_ebt(space="mirror", start_std=1e4, candidates=2)
    folder = str(save_folder(model, tmp_path / "model"))
    made = generate(4, 14, 6, seed=5)
    write_csv(tmp_path / "puzzles.csv", *made)
    found = {}
    for name, options in (("once", ["--steps", "2"]), ("on", ["--budget", "60"]), ("short", ["--budget", "0.000001"])):
        out = tmp_path / name
        assert main(["solve", "--checkpoint", folder, "--csv", str(tmp_path / "puzzles.csv"), *options, "--out", str(out)]) == 0
        found[name] = json.loads((out / "solve.json").read_text())
        assert found[name]["solved"] == sum(row["valid"] == "true" for row in solutions_of(out))
    assert found["once"]["solved"] < found["on"]["solved"] == 6
    assert [len(found[name]["attempts"]) for name in ("once", "short")] == [1, 1]
    attempts, steps = found["on"]["attempts"], model.config.steps
    taken = [tuple(one[key] for key in ("steps", "candidates", "seed")) for one in attempts]
    expected = [(steps, 1, 0), (steps, 2, 0), (2 * steps, 4, 1), (4 * steps, 8, 2)]
    assert len(taken) > 1
    assert taken[:4] == expected[: len(taken)]
    left = [6, *(before["puzzles"] - before["solved"] for before in attempts[:-1])]
    assert [one["puzzles"] for one in attempts] == left
    missed = next(row for row in solutions_of(tmp_path / "short") if row["valid"] == "false")
    capsys.readouterr()
    assert main(["solve", "--checkpoint", folder, missed["puzzle"], "--budget", "60", "--out", str(tmp_path / "one")]) == 0
    read = json.loads((tmp_path / "one" / "solve.json").read_text())
    assert read["solved"] is True
    assert f"{read['attempts']} attempts" in capsys.readouterr().out


@pytest.mark.parametrize(("loop", "steps"), [("none", 1), ("prediction", 5)])
def test_a_rival_fills_in_a_board(loop: str, steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sudoku_folder(tmp_path / "model", loop=loop)
    options = ["--steps", str(steps), "--out", str(tmp_path)]
    assert main(["solve", "--checkpoint", folder, PUZZLE, *options]) == 0
    read = json.loads((tmp_path / "solve.json").read_text())
    puzzle = torch.from_numpy(parse_board(PUZZLE, 4)).long()
    assert read["boards"][0] == puzzle.tolist()
    for board, logits in zip(read["boards"][1:], sudoku_rival(loop)(puzzle[None], steps), strict=True):
        assert board == torch.where(puzzle > 0, puzzle, logits[0].argmax(-1) + 1).tolist()
    assert read["energies"] == []
    assert imread(tmp_path / "board.png").shape[0] > 200
    out = capsys.readouterr().out
    assert f"{steps} forward and 0 backward passes" in out
    assert "energy" not in out


def test_a_looped_rival_iterates_longer_and_a_feed_forward_one_answers_once(tmp_path: Path) -> None:
    for loop, most in (("none", 1), ("hidden", 128)):
        folder = sudoku_folder(tmp_path / loop, loop=loop)
        assert main(["solve", "--checkpoint", folder, PUZZLE, "--budget", "60", "--out", str(tmp_path)]) == 0
        read = json.loads((tmp_path / "solve.json").read_text())
        assert read["solved"] or read["steps"] == most


def test_a_puzzle_from_a_file(folder: str, tmp_path: Path) -> None:
    rows = [PUZZLE[i : i + 4] for i in range(0, 16, 4)]
    (tmp_path / "a.sdk").write_text("# a comment\n" + "\n".join(rows) + "\n")
    for given in ([str(tmp_path / "a.sdk")], ["--csv", str(tmp_path / "a.sdk")], [PUZZLE.replace(".", "_") + " # the same"]):
        assert main(["solve", "--checkpoint", folder, *given, "--steps", "1", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "solve.json").read_text())["puzzle"] == parse_board(PUZZLE, 4).tolist()
    assert [row["puzzle"] for row in solutions_of(tmp_path)] == [PUZZLE.replace(".", "0")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "exactly one of PUZZLE, --csv FILE and --givens N"),
        ([PUZZLE, "--givens", "5"], "exactly one of"),
        (["1" + "." * 35], "36 cells, and this model solves 4x4: give 16 cells"),
        (["x" + PUZZLE[1:]], "'x' at line 1, character 1"),
        (["9" + PUZZLE[1:]], "this model solves 4x4: give digits 1 to 4"),
        (["11" + "." * 14], "contradict each other"),
        (["." * 16], "several solutions"),
        (["123...4........."], "no solution"),
        (["--givens", "3"], "givens = 3 cannot be made"),
        (["--csv", "nowhere.csv"], "nowhere.csv cannot be read"),
        (["nowhere.sdk"], "nowhere.sdk cannot be read"),
        ([PUZZLE, "--steps", "2", "--budget", "3"], "--budget"),
        ([PUZZLE, "--steps", "2", "--candidate-noise", "0.1"], "--candidates"),
        ([PUZZLE, "--tolerance", "-1"], "--tolerance: '-1' is not a number of at least 0"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    folder: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", "--checkpoint", folder, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_another_size_names_that_of_the_model(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "six.csv", *generate(6, 20, 2, seed=0))
    assert main(["solve", "--checkpoint", folder, "--csv", str(tmp_path / "six.csv")]) == 2
    assert "36 cells, and this model solves 4x4: give 16 cells" in capsys.readouterr().err


def test_a_file_of_puzzles_is_no_puzzle(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.txt").write_text(PUZZLE)
    assert main(["solve", "--checkpoint", folder, str(tmp_path / "p.txt")]) == 2
    assert f"is a file: give --csv {tmp_path / 'p.txt'}" in capsys.readouterr().err


def test_a_model_of_no_boards_is_refused_and_a_rival_for_options_of_thinking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", "--checkpoint", language_folder(tmp_path / "text"), PUZZLE]) == 2
    assert "'ebt'" in capsys.readouterr().err
    rival = sudoku_folder(tmp_path / "loop", loop="hidden")
    for option, value in (("--candidates", "2"), ("--tolerance", "0.1"), ("--rule", "lowest"), ("--step-size-scale", "0.5")):
        assert main(["solve", "--checkpoint", rival, PUZZLE, option, value]) == 2
        assert option in capsys.readouterr().err
