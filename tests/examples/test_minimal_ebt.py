"""The idea in one file: it is short and alone, trains, thinks and says so."""

from __future__ import annotations

import ast
import math
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_ebt.py"
TINY = ["--updates", "30", "--rows", "4", "--context", "16", "--length", "12"]


def test_it_trains_and_thinks_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 200)
    curve, verified = runpy.run_path(str(EXAMPLE))["main"]([str(text), *TINY])
    losses, energies = zip(*curve, strict=True)
    assert len(losses) == 8
    assert losses[1] < 0.8 * math.log(256)
    assert energies[1] < 0  # at first the landscape is flat, at zero
    assert set(verified) == {"lowest energy", "highest", "the first"}
    said = capsys.readouterr().out
    assert "s left" in said
    assert "the cat sat on t" in said  # the prompt of the sample


def test_a_flat_landscape_guesses_and_candidates_do_not_see_the_future() -> None:
    example = runpy.run_path(str(EXAMPLE))
    torch.manual_seed(0)
    model = example["EnergyTransformer"](8, dim=16).eval()
    tokens = torch.randint(256, (1, 8))
    with torch.no_grad():
        ((_, energy),) = example["think"](model, model.read(tokens), 1)
        assert energy.abs().max() == 0
        model.head.weight.normal_()
        y = torch.randn(1, 8, 256).softmax(-1)
        before = model.energy(model.read(tokens), y)
        tokens[0, 5] = (tokens[0, 5] + 1) % 256
        y[0, 6] = y[0, 6].roll(1)
        after = model.energy(model.read(tokens), y)
    assert torch.equal(before[0, :5], after[0, :5])  # neither later bytes nor other candidates
    assert (before[0, 5:] != after[0, 5:]).all()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE))["main"](["--help"])
    assert ended.value.code == 0
    assert "--updates" in capsys.readouterr().out


def test_it_is_short_and_needs_nothing_of_the_library() -> None:
    source = EXAMPLE.read_text()
    assert len(source.splitlines()) <= 200
    imported = [node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    imported += [one.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for one in node.names]
    assert not [name for name in imported if name.split(".")[0] == "ebt"]
