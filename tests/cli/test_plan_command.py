"""`ebt plan`: a table, JSON, and what does not fit or make sense."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ebt.cli.main import main

CONFIG = Path(__file__).parents[2] / "ebt" / "problems" / "language" / "configs" / "ebt.yaml"
DEVICE = ["--device-memory=80GB", "--flops=400e12"]
SMALL = [
    "--model.network.layers=1",
    "--model.network.dim=8",
    "--model.network.heads=2",
    "--model.recipe.min_steps=1",
    "--model.recipe.max_steps=1",
    "--data.context_length=16",
]
Captured = pytest.CaptureFixture[str]


def plan(*arguments: str, config: Path = CONFIG) -> int:
    return main(["plan", f"--config={config}", *arguments])


def test_a_plan_in_the_terminal_and_as_json(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "plan.json"
    options = ["--devices=8", "--batch=4", "--tokens=1e9", f"--json={file}"]
    assert plan(*DEVICE, *SMALL, *options, "--trainer.accumulate_grad_batches=2", "--trainer.precision=bf16-mixed") == 0
    table, found = capsys.readouterr().out, json.loads(file.read_text())
    assert all(
        part in table for part in ("parameters", "attention", "optimiser", "vocabulary", "largest batch", "days for 1e+09")
    )
    assert f"{found['parameters']:,}" in table
    assert found["second_order"] == "central"
    assert "central differences" in table
    assert (found["tokens_per_update"], found["tokens"]) == (8 * 4 * 2 * 16, 10**9)
    memory = found["memory"]
    assert memory.pop("total") == sum(memory.values())
    assert memory["gradients"] == memory["communication"] == memory["weights"]
    assert memory["optimiser"] == pytest.approx(2 * memory["weights"], rel=2e-3)
    assert found["tokens_per_day"] == pytest.approx(8 * 400e12 * 86_400 / found["executed"])
    assert found["days"] == pytest.approx(1e9 / found["tokens_per_day"])
    assert found["executed"] >= found["least"]["total"]


def test_what_does_not_fit_is_told_with_what_would(capsys: Captured) -> None:
    twin = CONFIG.with_name("transformer-pp.yaml")  # of which a plan is made in a third of the time
    small = [option for option in SMALL if "recipe" not in option]
    assert plan("--device-memory=2MB", "--flops=1e9", *small, "--batch=64", config=twin) == 0
    assert re.search(r"does not fit: .* of 2 MB, with 10 % left free; at most \d+ fits", capsys.readouterr().out)
    assert plan("--device-memory=10KB", "--flops=1e9", *small, config=twin) == 0
    assert "not even one context" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--device-memory"]),
        (["--device-memory=lots", "--flops=1e9"], ["'lots'", "80GB"]),
        (["--device-memory=1GB", "--flops=0"], ["--flops"]),
        ([*DEVICE, "--devices=0"], ["--devices"]),
        ([*DEVICE, "--batch=0"], ["--batch"]),
        ([*DEVICE, "--tokens=5", "--updates=5"], ["--updates"]),
        ([*DEVICE, "--trainer.max_steps=-1"], ["--tokens"]),
        ([*DEVICE, "--trainer.strategy=deepspeed"], ["deepspeed", "use fsdp"]),
        ([*DEVICE, "--trainer.precision=16-true"], ["16-true", "bf16-mixed"]),
        (
            [*DEVICE, "--trainer.precision=bf16-mixed", "--model.recipe.second_order=central", "--model.recipe.nudge=0.005"],
            ["recipe.nudge is 0.005", "too small for torch.bfloat16"],
        ),
        ([*DEVICE, "--model.network.pretrained=x", "--model.network.size=micro"], ["network.pretrained"]),
        ([*DEVICE, "--model.network.size=huge"], ["'huge'"]),
        ([*DEVICE, f"--config={CONFIG.parents[2] / 'sudoku' / 'configs' / 'ebt.yaml'}"], ["language models", "SudokuTask"]),
        ([*DEVICE, *SMALL, "--json=/proc/plan"], ["/proc/plan"]),
    ],
)
def test_what_makes_no_sense_is_told_in_a_line(arguments: list[str], words: list[str], capsys: Captured) -> None:
    assert plan(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("ebt: error: ")
    assert all(word in error for word in words), error
