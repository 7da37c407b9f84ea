"""The study of Sudoku through the command, on small boards; training for a budget of time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_study_command import no_pool

from ebt.cli.main import main
from ebt.lab.studies.command import SUDOKU_KINDS
from ebt.lab.studies.sudoku import KINDS, NOISES, SCALES
from ebt.problems.folder import load_folder
from ebt.problems.sudoku.boards import write_csv
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.generator import generate
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe
from ebt.training.loop import train_for
from ebt.training.optimisation import Optimisation

pytestmark = pytest.mark.filterwarnings("ignore")
FEW = ["--givens", "5,8", "--test-givens", "6", "--boards", "3"]
HARD = ["--size", "6", "--givens", "14,20", "--test-givens", "10", "--boards", "3", "--guesses", "2", "--kinds", "ebt"]
SMALL = ["--quick", "--jobs", "1", "--seeds", "1", "--size", "4", "--layers", "1", "--dim", "8", "--minutes", "0.002"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sudoku")
    write_csv(folder / "few.csv", *generate(4, 5, 120, seed=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.runs.pool", no_pool)
        assert main(["study", "sudoku", *SMALL, *FEW, "--collection", str(folder / "few.csv"), "--out", str(folder)]) == 0
    return folder


def test_every_model_is_measured_at_every_number_of_steps(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    lines = results["lines"]["6"]
    passes = {line["name"]: line["evaluations"] for line in lines}
    assert passes == {
        "EBT": {"1": 2, "2": 4, "4": 8},
        "EBT, best of 2": {"1": 6, "2": 10, "4": 18},  # and the energies of the last states
        "feed-forward": {"1": 1},
        **{f"looped, {what}": {str(n): n for n in (1, 2, 4, 8)} for what in ("prediction", "hidden")},
        "recursive": {str(n): 3 * n for n in (1, 2, 4, 8)},  # loops take as many passes as the EBT
    }
    assert all(0 <= line["cell"][step]["mean"] <= 100 for line in lines for step in line["cell"])
    assert len(results["verdicts"]) in (1, 8)
    page = (out / "sudoku-details.md").read_text()
    stopping = page.split("## EBT that stops when it has converged")[1].split("\n\n")[1].splitlines()[-1]
    cells = [cell.strip() for cell in stopping.strip("|").split("|")]
    assert (cells[0], cells[2]) == ("6 givens", "8")
    assert 2 <= float(cells[4]) <= 8
    assert "of few.csv, further cells revealed at random" in page
    assert "chosen on 2 validation boards with 6 to 6 givens" in page
    (curve,) = (json.loads(path.read_text()) for path in out.glob("raw/ebt-0-6-givens-[0-9a-f]*.json"))
    assert (curve["values"]["scale"], curve["values"]["noise"]) in [(s, n) for s in SCALES for n in NOISES]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("sudoku.png", "cells.png"))


def test_the_option_knows_all_kinds() -> None:
    assert tuple(KINDS) == SUDOKU_KINDS


def test_a_second_call_trains_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "sudoku", *SMALL, *FEW, "--collection", str(out / "few.csv"), "--out", str(out)]) == 0
    assert "11 runs, 11 of them finished before." in capsys.readouterr().out


def test_a_page_of_some_kinds(out: Path) -> None:
    few = [*FEW, "--kinds", "ebt,feed_forward,looped_prediction"]
    assert main(["study", "sudoku", *SMALL, *few, "--collection", str(out / "few.csv"), "--out", str(out)]) == 0
    lines = json.loads((out / "results.json").read_text())["lines"]["6"]
    assert [line["name"] for line in lines] == ["EBT", "EBT, best of 2", "feed-forward", "looped, prediction"]


@pytest.mark.slow
def test_hard_boards_are_a_set_of_their_own(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.runs.pool", no_pool)
        assert main(["study", "sudoku", *SMALL, *HARD, "--out", str(tmp_path)]) == 0
    lines = json.loads((tmp_path / "results.json").read_text())["lines"]
    assert {test: [line["name"] for line in found] for test, found in lines.items()} == {
        "10": ["EBT", "EBT, best of 2"],
        "hard": ["EBT", "EBT, best of 2"],
    }
    page = (tmp_path / "sudoku-details.md").read_text()
    assert "2 guesses or more: as many boards with 10 givens" in page
    assert "## 2 guesses or more: boards solved (%)" in page


def test_models_that_are_not_told_the_rules_are_others(tmp_path: Path) -> None:
    few = [*FEW, "--kinds", "feed_forward", "--no-rules"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.runs.pool", no_pool)
        assert main(["study", "sudoku", *SMALL, *few, "--out", str(tmp_path)]) == 0
    assert "all must find out" in (tmp_path / "sudoku-details.md").read_text()
    (folder,) = (tmp_path / "models").iterdir()
    assert load_folder(folder).config.rules is False


def trained(minutes: float) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    data = SudokuDataModule(size=4, train_count=20, train_givens=(6, 9), validation_count=1, test_count=1, test_givens=(6,))
    optimisation = Optimisation(lr=0.01, warmup_steps=2, min_lr_ratio=0.1)
    task = SudokuTask(SudokuNetwork("nano", layers=1, dim=8, heads=2), Recipe(), optimisation=optimisation)
    return train_for(task, data, minutes, lambda done, total, _: told.append((done, total))), told


def test_a_warm_start_is_a_share_of_the_budget() -> None:
    steps = list[float]()

    class Note(SudokuTask):
        def log_training(self, outcome: Any) -> None:
            super().log_training(outcome)
            steps.append(len(outcome.losses))

    data = SudokuDataModule(size=4, train_count=20, train_givens=(6, 9), validation_count=1, test_count=1, test_givens=(6,))
    network = SudokuNetwork("nano", layers=1, dim=8, heads=2, head="bilinear")
    recipe = Recipe(min_steps=2, max_steps=2, warm_start=0.5)
    task = Note(network, recipe, optimisation=Optimisation(warmup_steps=2))
    train_for(task, data, 0.01, lambda *_: None)
    first = steps.index(2)
    assert 0 < first < len(steps)
    assert steps == [1] * first + [2] * (len(steps) - first)


def test_training_ends_with_its_budget_of_processor_time() -> None:
    made, told = trained(0.01)
    assert made["updates"] == len(told) > 3
    assert 0.6 <= made["seconds"] < 10
    assert told[-1] == (1000, 1000)
    assert 0.001 <= made["lr"] < 0.003  # the schedule has gone its way
