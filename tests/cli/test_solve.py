from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from small_models import close, language_folder, sudoku_ebt, sudoku_folder

from ebt.cli.main import main
from ebt.evaluation.results import to_json
from ebt.problems.sudoku.boards import board_errors, generate, parse_board, write_csv
from ebt.problems.sudoku.metrics import sudoku_curve, watch_board

PUZZLE = "...31..44..1...."
SOLUTION = [int(digit) for digit in "2413132442313142"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sudoku_folder(tmp_path_factory.mktemp("sudoku") / "model")


def test_a_process_shows_boards_and_writes_the_thinking(folder: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ebt.cli.main", "solve", "--checkpoint", folder, PUZZLE]
    options = ["--steps", "4", "--candidates", "3", "--seed", "2", "--out", str(tmp_path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    read = json.loads((tmp_path / "solve.json").read_text())
    watched = watch_board(sudoku_ebt(), torch.from_numpy(parse_board(PUZZLE, 4)), steps=4, candidates=3, seed=2)
    assert close(read, to_json(watched) | {"solution": SOLUTION, "solved": watched.boards[-1] == SOLUTION})
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


def test_a_new_puzzle_has_as_many_givens_as_asked_for(folder: str, tmp_path: Path) -> None:
    def puzzle(seed: str) -> list[int]:
        assert main(["solve", "--checkpoint", folder, "--givens", "6", "--seed", seed, "--out", str(tmp_path)]) == 0
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
    curve = sudoku_curve(sudoku_ebt(), *boards, [5], [2], tolerance=0.01, seed=4)
    assert json.loads((tmp_path / "solve.json").read_text()) == to_json(curve)
    out, point = capsys.readouterr().out, curve.points[0]
    assert f"{round(6 * point.exact)} of 6" in out
    assert f"{100 * point.cell:.2f} %" in out
    assert f"{point.forward:.1f} forward, {point.backward:.1f} backward passes" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "exactly one of PUZZLE, --csv FILE and --givens N"),
        ([PUZZLE, "--givens", "5"], "exactly one of"),
        (["1" + "." * 35], "36 cells, not those of size 4"),
        (["x" + PUZZLE[1:]], "'x' at line 1, character 1"),
        (["9" + PUZZLE[1:]], "digits of a 4x4 board are 1 to 4"),
        (["11" + "." * 14], "contradict each other"),
        (["." * 16], "several solutions"),
        (["123...4........."], "no solution"),
        (["--givens", "3"], "givens = 3 cannot be made"),
        (["--csv", "nowhere.csv"], "nowhere.csv cannot be read"),
        ([PUZZLE, "--tolerance", "0"], "--tolerance: '0' is no number above 0"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    folder: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["solve", "--checkpoint", folder, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_no_ebt_of_boards_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, folder in (
        ("ebt", language_folder(tmp_path / "text")),
        ("ebt_sudoku_transformer", sudoku_folder(tmp_path / "loop", loop="hidden")),
    ):
        assert main(["solve", "--checkpoint", folder, PUZZLE]) == 2
        assert f"{name!r}" in capsys.readouterr().err
