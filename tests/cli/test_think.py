from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forked import program
from matplotlib.image import imread
from small_models import CONTEXT, close, language_ebt, language_folder, language_twin, sudoku_ebt, sudoku_folder, sudoku_rival

from ebt.cli.main import main
from ebt.files import finite
from ebt.problems.folder import save_folder
from ebt.problems.language.corpora import Document
from ebt.problems.language.data import TextDataModule
from ebt.problems.language.metrics import language_curve
from ebt.problems.language.packing import make_example
from ebt.problems.language.tokenizers import train_bpe
from ebt.problems.sudoku.boards import read_csv, write_csv
from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.generator import generate
from ebt.problems.sudoku.metrics import sudoku_curve

TEXT = "".join(f"The {i}th fox sees {i * i} hens.\n\n" for i in range(40))


def run_folder(folder: Path, module: str, data: dict[str, Any], seed: int) -> str:
    """What ``ebt fit`` leaves beside the model."""
    folder.mkdir(exist_ok=True)
    config = {"seed_everything": seed, "data": {"class_path": f"ebt.data.{module}", "init_args": data}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(folder)


def curves(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "thinking.json").read_text())["curves"]
    return read


def test_a_process_compares_language_models_on_all_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    ebt, twin = language_folder(tmp_path / "ebt"), language_folder(tmp_path / "twin", twin=True)
    command = ["-m", "ebt.cli.main", "think", "--checkpoint", ebt, "--baseline", twin, "--seed", "4"]
    options = [
        "--data",
        str(tmp_path / "text.txt"),
        "--steps",
        "1,3",
        "--candidates",
        "2,1",
        "--limit",
        "5",
        "--batch-size",
        "2",
    ]
    done = program(*command, *options, "--out", str(tmp_path / "out"), env={"COLUMNS": "100"})
    ids = [*TEXT.encode(), 256]
    starts = range(0, len(ids) - 1, CONTEXT)
    rows = [make_example(ids[start : start + CONTEXT + 1], CONTEXT, 256) for start in starts]
    spread = [rows[round(i * (len(rows) - 1) / 4)] for i in range(5)]
    batches = [{name: torch.stack([row[name] for row in spread[i : i + 2]]) for name in spread[0]} for i in (0, 2, 4)]
    expected = (
        language_curve(language_ebt(), batches, [1, 3], [1, 2], seed=4),
        language_curve(language_twin(), batches, [1], seed=4),
    )
    assert close(curves(tmp_path / "out"), dict(zip(("ebt", "twin"), map(finite, expected), strict=True)))
    assert all(imread(tmp_path / "out" / name).size for name in ("thinking.png", "energy.png"))
    for point in (*expected[0].points, *expected[1].points):
        assert f"{point.nats:.4f} ±{point.nats_error:.3f}" in done.stdout
    best = expected[0].best()
    assert re.search(f"ebt: best: {best.steps} steps? with {best.candidates} candidates?, {best.nats:.4f} nats", done.stdout)
    assert "only if the model was not trained on it" in " ".join(done.stdout.split())


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_run_knows_its_held_out_text(split: str, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"{i} " * 30}) + "\n" for i in range(30)), encoding="utf-8"
    )
    language_folder(tmp_path / "run" / "model")
    settings = {
        "source": str(tmp_path / "text.jsonl"),
        "fractions": [0.6, 0.2, 0.2],
        "tokenizer": "bytes",
        "context_length": 99,
    }
    run = run_folder(tmp_path / "run", "text.TextDataModule", settings, seed=3)
    assert main(["think", "--checkpoint", run, "--steps", "2", "--split", split, "--limit", "999", "--out", str(tmp_path)]) == 0
    data = TextDataModule(**{**settings, "context_length": CONTEXT, "seed": 3, "batch_size": 8})  # type: ignore[arg-type]
    loader = data.test_dataloader() if split == "test" else data.val_dataloader()
    assert close(curves(tmp_path)["run"], finite(language_curve(language_ebt(), loader, [2])))


def test_boards_of_a_file_with_all_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    write_csv(tmp_path / "boards.csv", *generate(4, 7, 9, seed=1))
    folders = [
        sudoku_folder(tmp_path / "ebt"),
        sudoku_folder(tmp_path / "loop", loop="hidden"),
        sudoku_folder(tmp_path / "ff", loop="none"),
    ]
    options = [
        "--steps",
        "1,2,5",
        "--candidates",
        "1,3",
        "--tolerance",
        "0.05",
        "--limit",
        "8",
        "--rule",
        "highest",
        "--seed",
        "2",
    ]
    baselines = [option for folder in folders[1:] for option in ("--baseline", folder)]
    out = ["--data", str(tmp_path / "boards.csv"), "--out", str(tmp_path)]
    assert main(["think", "--checkpoint", folders[0], *baselines, *options, *out]) == 0
    boards = [torch.from_numpy(array[:8]) for array in read_csv(tmp_path / "boards.csv", 4)]
    ebt = sudoku_curve(sudoku_ebt(), *boards, [1, 2, 5], [1, 3], rule="highest", tolerance=0.05, seed=2)
    rivals = {
        name: finite(sudoku_curve(sudoku_rival(loop), *boards, [1, 2, 5]))
        for name, loop in (("loop", "hidden"), ("ff", "none"))
    }
    assert close(curves(tmp_path), {"ebt": finite(ebt), **rivals})
    shown = capsys.readouterr().out
    for point in ebt.points:
        assert f"{100 * point.exact:.1f} ±{100 * point.exact_error:.1f}" in shown
        assert f"{point.forward:.3g} + {point.backward:.3g}" in shown


def test_the_rule_is_that_of_the_model(tmp_path: Path) -> None:
    write_csv(tmp_path / "boards.csv", *generate(4, 7, 6, seed=1))
    model = sudoku_ebt(space="mirror", start_std=3.0, rule="decided")
    folder = str(save_folder(model, tmp_path / "ebt"))
    sizes = ["--steps", "2", "--candidates", "4", "--data", str(tmp_path / "boards.csv")]
    boards = [torch.from_numpy(array) for array in read_csv(tmp_path / "boards.csv", 4)]
    for rule, options in (("decided", []), ("visited", ["--rule", "visited"]), ("lowest", ["--rule", "lowest"])):
        assert main(["think", "--checkpoint", folder, *sizes, *options, "--out", str(tmp_path / rule)]) == 0
        found = curves(tmp_path / rule)["ebt"]
        assert close(found, finite(sudoku_curve(model, *boards, [2], [4], rule=rule)))
        assert found["points"][0]["forward"] == 4 * (2 + 1 + {"decided": 1, "visited": 2, "lowest": 0}[rule])


def test_a_run_knows_its_test_boards_and_makes_new_ones_that_were_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sudoku_folder(tmp_path / "run" / "model")
    settings = {
        "size": 4,
        "train_count": 3,
        "train_givens": [8, 9],
        "validation_count": 1,
        "test_count": 4,
        "test_givens": [7, 6],
    }
    run = run_folder(tmp_path / "run", "sudoku_module.SudokuDataModule", settings, seed=8)
    data = SudokuDataModule(**settings, seed=8)  # type: ignore[arg-type]
    data.prepare()

    def think(*options: str) -> dict[str, Any]:
        assert main(["think", "--checkpoint", run, "--steps", "2", "--limit", "5", "--out", str(tmp_path), *options]) == 0
        found: dict[str, Any] = curves(tmp_path)["run"]
        return found

    def expected(boards: Any) -> dict[str, Any]:
        return finite(sudoku_curve(sudoku_ebt(), *map(torch.from_numpy, boards), [2]))

    assert close(think(), expected(data.sets["givens_6"]))
    assert close(think("--split", "validation"), expected(data.sets["validation"]))
    assert close(think("--givens", "7"), expected(data.sets["givens_7"]))
    assert close(think("--givens", "10"), expected(generate(4, 10, 5, 0, exclude=data.sets["train"].solutions)))
    assert "Their solution grids do not occur in the training set" in capsys.readouterr().out


def test_step_size_and_noise_are_chosen_for_one_call(folders: dict[str, str], tmp_path: Path) -> None:
    options = ["--givens", "8", "--limit", "3", "--steps", "3", "--candidates", "2", "--out", str(tmp_path)]
    softer = ["--step-size-scale", "0.3", "--candidate-noise", "0.5", "--candidate-noise-steps", "1"]
    assert main(["think", "--checkpoint", folders["sudoku"], *options, *softer]) == 0
    boards = map(torch.from_numpy, generate(4, 8, 3, 0))
    model = sudoku_ebt(step_size_scale=0.3, candidate_noise=0.5, noise_steps=1)
    assert close(curves(tmp_path)["sudoku"], finite(sudoku_curve(model, *boards, [3], [2])))
    told = json.loads((tmp_path / "thinking.json").read_text())
    assert [told[name] for name in ("step_size_scale", "candidate_noise", "candidate_noise_steps")] == [0.3, 0.5, 1]


def test_alarms_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = sudoku_ebt(start_std=0.0)
    torch.nn.init.zeros_(model.network.head.projection.weight)
    model.save_pretrained(tmp_path / "flat")
    assert main(["think", "--checkpoint", str(tmp_path / "flat"), "--givens", "8", "--limit", "3"]) == 0
    shown = capsys.readouterr().out
    assert "alarm: thinking changes nothing" in shown
    assert "may contain solution grids" in shown


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    run_folder(folder / "broken", "", {}, seed=0)
    (folder / "broken" / "config.yaml").write_text("seed_everything: 0\n")
    run_folder(folder / "own", "my.BoardModule", {}, seed=0)
    for run in ("broken", "own"):
        sudoku_folder(folder / run / "model")
    return {
        "text": language_folder(folder / "text"),
        "twin": language_folder(folder / "twin", twin=True),
        "sudoku": sudoku_folder(folder / "sudoku"),
        "six": sudoku_folder(folder / "six", board=6),
        "broken": str(folder / "broken"),
        "own": str(folder / "own"),
        "missing": str(folder / "missing"),
    }


@pytest.mark.parametrize(
    ("checkpoint", "options", "message"),
    [
        ("missing", [], "not a directory"),
        ("text", [], "give them with --data"),
        ("sudoku", [], "give a CSV file with --data, or generate new puzzles with --givens N"),
        ("broken", [], "config.yaml has no readable data settings"),
        ("own", [], "config.yaml has data of class BoardModule, not SudokuDataModule: give the data with --data"),
        ("sudoku", ["--data", "nowhere.csv"], "nowhere.csv cannot be read"),
        ("sudoku", ["--data", "a.csv", "--givens", "8"], "--data and --givens both choose the boards"),
        ("sudoku", ["--givens", "8", "--split", "validation"], "--givens and --split validation both choose the boards"),
        ("sudoku", ["--givens", "8", "--candidate-noise", "1"], "--candidate-noise applies to all candidates but the first"),
        ("sudoku", ["--givens", "8", "--candidates", "2", "--candidate-noise-steps", "1"], "-steps needs noise"),
        ("twin", ["--data", "x", "--step-size-scale", "2"], "--step-size-scale needs a model that thinks"),
        ("text", ["--givens", "8"], "--givens is not for language"),
        ("text", ["--tolerance", "0.1", "--data", "x"], "--tolerance is not for language"),
        ("sudoku", ["--givens", "8", "--baseline", "BASE:text"], "a model of the same problem"),
        ("sudoku", ["--givens", "8", "--baseline", "BASE:six"], "the size of boards"),
        ("sudoku", ["--givens", "8", "--baseline", "BASE:sudoku"], "--baseline must name other folders"),
        ("sudoku", ["--givens", "8", "--rule", "mean"], "--rule mean is not for sudoku"),
        ("sudoku", ["--givens", "8", "--steps", "1,x"], "--steps: 'x' is not an integer of at least 1"),
        ("sudoku", ["--givens", "8", "--candidates", "0"], "--candidates: '0' is not an integer of at least 1"),
    ],
)
def test_bad_input_is_named_with_its_remedy(
    folders: dict[str, str], checkpoint: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [folders[option.removeprefix("BASE:")] if option.startswith("BASE:") else option for option in options]
    assert main(["think", "--checkpoint", folders[checkpoint], *options]) == 2
    assert message in capsys.readouterr().err


def test_a_stop_of_ones_own_is_found_in_the_working_folder(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "stops_of_a_user.py").write_text("class Always:\n    def __call__(self, step):\n        return True\n")
    options = ["--givens", "8", "--limit", "3", "--steps", "3", "--stop", "stops_of_a_user.Always()", "--out", "out"]
    assert main(["think", "--checkpoint", folders["sudoku"], *options]) == 0
    assert json.loads((tmp_path / "out" / "thinking.json").read_text())["stop"] == "stops_of_a_user.Always()"
    assert curves(tmp_path / "out")["sudoku"]["points"][0]["steps_taken"] == 1


def test_options_of_thinking_need_a_model_that_thinks(folders: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--candidates", "2"], ["--rule", "lowest"]):
        assert main(["think", "--checkpoint", folders["twin"], "--data", "x", *option]) == 2
        assert f"{option[0]} needs a model that thinks" in capsys.readouterr().err


def test_noise_and_tolerance_of_a_model_can_be_turned_off(tmp_path: Path) -> None:
    noisy = save_folder(sudoku_ebt(candidate_noise=2.0, tolerance=9.0), tmp_path / "noisy")
    calm = save_folder(sudoku_ebt(), tmp_path / "calm")
    options = ["--givens", "8", "--limit", "3", "--steps", "3", "--candidates", "2"]
    zero = ["--candidate-noise", "0", "--tolerance", "0"]
    assert main(["think", "--checkpoint", str(noisy), *options, *zero, "--out", str(tmp_path / "one")]) == 0
    assert main(["think", "--checkpoint", str(calm), *options, "--out", str(tmp_path / "other")]) == 0
    assert close(curves(tmp_path / "one")["noisy"]["points"], curves(tmp_path / "other")["calm"]["points"])


def test_tokens_of_different_tokenisers_are_not_compared(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    other = save_folder(language_twin(), tmp_path / "other", train_bpe([Document(TEXT)], 257))
    assert main(["think", "--checkpoint", folders["text"], "--baseline", str(other), "--data", str(tmp_path / "text.txt")]) == 2
    assert "has a different tokenizer" in capsys.readouterr().err
