"""What validation, ``ebt think`` and the model itself say of a model and its data is the same number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_models import language_ebt, sudoku_ebt

from ebt import evaluate
from ebt.cli.main import main
from ebt.problems.folder import save_folder
from ebt.problems.language.problem import PROBLEM
from ebt.problems.language.tokenizers import byte_tokenizer
from ebt.problems.registry import Request
from ebt.problems.sudoku.boards import write_csv
from ebt.problems.sudoku.generator import generate

pytestmark = pytest.mark.filterwarnings("ignore")
THINKING = {"steps": 3, "candidates": 2, "candidate_noise": 0.2, "clamp": 0.05, "step_size_scale": 0.7, "start_seed": 5}
RULES = ("lowest", "decided", "visited")


@pytest.mark.parametrize("rule", RULES)
def test_language(rule: str, tmp_path: Path) -> None:
    folder, text = (
        str(save_folder(language_ebt(**THINKING, rule=rule), tmp_path / "model", byte_tokenizer())),
        tmp_path / "text.txt",
    )
    text.write_text("".join(f"The {i}th fox sees {i * i} hens.\n\n" for i in range(12)))
    assert main(["validate", "--checkpoint", folder, "--data", str(text), "--trainer.accelerator=cpu"]) == 0
    validated = json.loads((tmp_path / "model" / "results.json").read_text())["validation"]["metrics"]["val/loss"]
    options = ["--steps", "1,3", "--candidates", "1,2", "--limit", "100000", "--batch-size", "5", "--seed", "5"]
    assert main(["think", "--checkpoint", folder, "--data", str(text), *options, "--out", str(tmp_path / "think")]) == 0
    (curve,) = json.loads((tmp_path / "think" / "thinking.json").read_text())["curves"].values()
    (thought,) = (point["nats"] for point in curve["points"] if (point["steps"], point["candidates"]) == (3, 2))
    total = count = 0.0
    model = language_ebt(**THINKING, rule=rule)
    batches = PROBLEM.held_out(Request(folder, {folder: model}, str(text), limit=100_000, batch_size=7)).data
    for batch in batches:
        logits, scored = model(batch["input_ids"]).logits, batch["targets"] >= 0
        nats = -logits.log_softmax(-1).gather(-1, batch["targets"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
        total, count = total + nats[scored].sum().item(), count + int(scored.sum())
    assert validated == pytest.approx(total / count, rel=1e-5)
    assert thought == pytest.approx(total / count, rel=1e-5)
    assert evaluate(model, batches, [3], [2]).points[0].nats == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_sudoku(rule: str, tmp_path: Path) -> None:
    model = sudoku_ebt(**THINKING, rule=rule)
    folder, boards = str(save_folder(model, tmp_path / "model")), generate(4, (6, 9), 20, seed=1)
    write_csv(tmp_path / "boards.csv", *boards)
    options = ["--steps", "3", "--candidates", "2", "--seed", "5", "--out", str(tmp_path)]
    assert main(["solve", "--checkpoint", folder, "--csv", str(tmp_path / "boards.csv"), *options]) == 0
    solved = json.loads((tmp_path / "solve.json").read_text())
    assert main(["think", "--checkpoint", folder, "--data", str(tmp_path / "boards.csv"), *options, "--batch-size", "3"]) == 0
    (curve,) = json.loads((tmp_path / "thinking.json").read_text())["curves"].values()
    thought = model.think(torch.from_numpy(boards.puzzles))
    empty = torch.from_numpy(boards.puzzles) == 0
    right = (thought.answer == torch.from_numpy(boards.solutions))[empty].double().mean().item()
    energy = thought.energy[-1].mean().item()
    assert (solved["cell"], solved["energy"]) == pytest.approx((right, energy))
    assert (curve["points"][0]["cell"], curve["points"][0]["energy"]) == pytest.approx((right, energy))
