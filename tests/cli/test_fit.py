"""``ebt fit``, ``validate`` and ``test`` as a user runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ebt.cli.main import main
from ebt.hub import load_folder

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
EBT = (sys.executable, "-m", "ebt.cli.main")
TINY = (
    *("--model.network.size", "nano", "--model.network.layers", "1", "--model.network.dim", "16"),
    *("--data.size", "4", "--data.train_count", "24", "--data.train_givens", "[6, 9]"),
    *("--data.test_givens", "[6]", "--data.test_count", "4", "--data.validation_count", "4", "--data.batch_size", "8"),
)
SUDOKU = ("--config", str(ROOT / "configs/sudoku/ebt.yaml"), *TINY)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EBT, *map(str, arguments)], capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    done = run("fit", *SUDOKU, "--out", folder, "--trainer.max_steps", "6", "--trainer.val_check_interval", "3", "--seed", "5")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_run_leaves_a_model_and_results(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert load_folder(folder).config.board == 4
    results = json.loads((folder / "results.json").read_text())
    assert (results["updates"], results["seed"], results["task"]) == (6, 5, "SudokuTask")
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert list((folder / "logs").rglob("metrics.csv"))
    assert "parameters" in printed
    assert "val" in printed


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_run_is_evaluated(trained: tuple[Path, str], command: str) -> None:
    done = run(command, "--checkpoint", trained[0])
    assert done.returncode == 0, done.stderr
    metrics = json.loads((trained[0] / "results.json").read_text())["validation" if command == "validate" else "test"][
        "metrics"
    ]
    exact = [value for name, value in metrics.items() if "exact" in name]
    assert exact
    assert all(0 <= value <= 1 for value in exact)


def test_a_run_that_is_told_to_stop_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    command = [*EBT, "fit", *SUDOKU, "--out", str(folder), "--trainer.max_steps", "100000", "--trainer.val_check_interval", "3"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 150
    while not (folder / "checkpoints" / "best.ckpt").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 143
    assert f"ebt fit --resume --out {folder}" in said
    assert "Traceback" not in said
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    again = run("fit", "--resume", "--out", folder, "--trainer.max_epochs", "1")  # more than one epoch is done already
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((*SUDOKU, "--model.recipe.nonsense", "3"), "nonsense"),
        ((*SUDOKU, "--model.recipe.min_steps", "0"), "min_steps"),
        ((*SUDOKU, "--model.recipe.noise", "-1"), "noise"),
        (
            (
                *SUDOKU,
                "--model.recipe.gradients",
                "detached",
                "--model.recipe.replay_size",
                "9",
                "--model.recipe.replay_fraction",
                "1",
            ),
            "S1",
        ),
        ((*SUDOKU, "--data.train_file", "nowhere.csv", "--data.validation_file", "nowhere.csv"), "nowhere.csv"),
        (("--config", "missing.yaml"), "missing.yaml"),
        (("--config", str(ROOT / "configs/language/ebt.yaml"), "--data.source", "no-such-file.txt"), "no-such-file.txt"),
        (("--resume",), "resume"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_named_before_work_starts(
    arguments: tuple[str, ...], named: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *arguments, "--out", str(tmp_path / "run")]) == 2
    said = capfd.readouterr().err
    assert named in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_config_trains(config: Path, tmp_path: Path) -> None:
    own = TINY if config.parent.name == "sudoku" else (*TINY[:6], "--data.context_length", "16", "--data.batch_size", "2")
    arguments = ["--config", str(config), *own, "--out", str(tmp_path / "run"), "--trainer.fast_dev_run", "2"]
    assert main(["fit", *arguments]) == 0
