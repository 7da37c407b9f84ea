"""The example of a task of one's own runs, and thinking helps in it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from ebt.cli.main import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_task.py"


@pytest.mark.filterwarnings("ignore")
def test_more_steps_make_smaller_errors() -> None:
    errors = runpy.run_path(str(EXAMPLE))["main"](updates=120)
    assert errors[4] < errors[2] < errors[1] / 2


def test_the_command_trains_it_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its first lines say, from the folder that it lies in; resuming in the middle of an epoch changes nothing."""
    monkeypatch.chdir(EXAMPLE.parent)

    def fit(*options: str) -> None:
        assert main(["fit", *options, "--trainer.accelerator", "cpu"]) == 0

    def weights(folder: str) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = torch.load(tmp_path / folder / "checkpoints" / "last.ckpt")["state_dict"]
        return found

    what = ["--model", "own_task.Curves", "--data", "own_task.Waves"]
    fit(*what, "--out", str(tmp_path / "whole"), "--trainer.max_steps", "14")
    assert f"weights: {tmp_path / 'whole' / 'checkpoints'}" in capsys.readouterr().out
    fit(*what, "--out", str(tmp_path / "parts"), "--trainer.max_steps", "9")
    fit("--resume", "--out", str(tmp_path / "parts"), "--trainer.max_steps", "14")
    whole, parts = weights("whole"), weights("parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 120
