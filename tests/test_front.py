"""``ebt.train`` and ``ebt.evaluate``: settings are Python values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import sudoku_ebt, sudoku_rival

import ebt
from ebt.errors import InputError
from ebt.problems.sudoku.generator import generate

TINY: dict[str, Any] = {
    "model__network__size": "nano",
    "model__network__layers": 1,
    "model__network__dim": 8,
    "model__network__heads": 2,
    "model__recipe__clamp": None,
    "model__validation_steps": (1, 2),
    "data__size": 4,
    "data__train_count": 6,
    "data__train_givens": (6, 9),
    "data__validation_count": 2,
    "data__test_count": 1,
    "data__test_givens": [6],
    "data__batch_size": 3,
    "data__permute_digits": False,
}


def test_a_run_is_trained_and_resumed_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EBT_RUN_FOLDER", raising=False)
    out = "my runs/of boards"
    first = ebt.train("sudoku/ebt", out=out, trainer__max_steps=1, **TINY)
    assert first.thinking.clamp is None
    monkeypatch.delenv("EBT_RUN_FOLDER")
    with pytest.raises(InputError, match="already contains a run"):
        ebt.train("sudoku/ebt", out=out, trainer__max_steps=1, **TINY)
    with pytest.raises(InputError, match="configuration is None"):
        ebt.train(None, out=out)
    ebt.train(None, out=out, resume=True, trainer__max_steps=2)
    second = ebt.train("sudoku/ebt", out=out, resume=True, trainer__max_steps=3, **TINY)
    assert torch.load(tmp_path / out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert second.config.dim == first.config.dim == 8
    assert [path.name for path in tmp_path.iterdir()] == ["my runs"]


@pytest.mark.parametrize("options", [{"candidates": [2]}, {"tolerance": 0.1}], ids=["candidates", "tolerance"])
def test_options_of_thinking_need_an_energy(options: dict[str, Any]) -> None:
    boards = tuple(map(torch.from_numpy, generate(4, 8, 2, 0)))
    assert ebt.evaluate(sudoku_ebt(), boards, [1], **options).points
    with pytest.raises(InputError, match=next(iter(options))):
        ebt.evaluate(sudoku_rival("none"), boards, [1], **options)
