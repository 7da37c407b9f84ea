"""How gradients of gradients are taken: one decision, which training obeys and loggers record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import trainings
from lightning.pytorch.loggers import CSVLogger
from small_models import QUIET
from torch import nn

from ebt.errors import InputError
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe
from ebt.training.second_order import choose, computing_dtype

AUTO = Recipe()
EXACT, CENTRAL = Recipe(second_order="exact"), Recipe(second_order="central", nudge=0.1)
CASES: dict[str, tuple[Recipe, str, dict[str, bool], str]] = {
    "CPU": (AUTO, "cpu", {}, "exact (auto: CPU)"),
    "GPU": (AUTO, "cuda", {}, "central differences, nudge 0.005 (auto: cuda)"),
    "compiled": (AUTO, "cpu", {"compiles": True}, "central differences, nudge 0.005 (auto: --compile)"),
    "sharded": (AUTO, "cuda", {"sharded": True}, "central differences, nudge 0.005 (auto: cuda, sharded weights)"),
    "checkpoints": (AUTO, "cpu", {"checkpoints": True}, "central differences, nudge 0.005 (auto: checkpointed activations)"),
    "exact": (EXACT, "cuda", {"compiles": True}, "exact (recipe.second_order)"),
    "central": (CENTRAL, "cpu", {}, "central differences, nudge 0.1 (recipe.second_order)"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_way_follows_from_where_and_how_training_runs(case: str) -> None:
    recipe, device, how, told = CASES[case]
    chosen = choose(recipe, device, torch.float32, **how)
    assert str(chosen) == told
    settled = chosen.of(recipe)
    assert (settled.second_order, settled.nudge) == (chosen.way, chosen.nudge)


def test_exact_is_refused_with_sharded_weights() -> None:
    with pytest.raises(InputError, match=r"recipe\.second_order is exact.*sharded weights.*to central or auto"):
        choose(EXACT, "cuda", torch.float32, sharded=True)


@pytest.mark.parametrize(
    ("dtype", "nudge"), [(torch.float64, 1e-11), (torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 0.03)]
)
def test_a_nudge_that_rounding_swallows_is_refused(dtype: torch.dtype, nudge: float) -> None:
    with pytest.raises(InputError, match=rf"recipe\.nudge is {nudge}, too small for {dtype}: give at least"):
        choose(Recipe(second_order="central", nudge=nudge), "cpu", dtype)
    assert choose(Recipe(second_order="central", nudge=2 * nudge), "cpu", dtype).nudge == 2 * nudge


@pytest.mark.parametrize(
    ("precision", "weights", "dtype"),
    [
        ("32-true", torch.float32, torch.float32),
        ("32-true", torch.bfloat16, torch.bfloat16),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("64-true", torch.float32, torch.float64),
    ],
)
def test_precision_is_that_of_the_trainer_or_the_lowest_of_the_weights(
    precision: Any, weights: torch.dtype, dtype: torch.dtype
) -> None:
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).to(weights)])
    assert computing_dtype(L.Trainer(precision=precision, **QUIET), module) == dtype


def weights(checkpoints: bool = False, folder: Path | None = None, **recipe: Any) -> tuple[SudokuTask, torch.Tensor]:
    task = SudokuTask(SudokuNetwork(**trainings.SIZES, head="bilinear", head_init="xavier"), Recipe(**recipe))
    task.checkpoint_activations = checkpoints
    logger = {} if folder is None else {"logger": CSVLogger(folder)}
    trainer = L.Trainer(**{**QUIET, **logger}, max_steps=2, limit_val_batches=0)
    trainer.fit(task, datamodule=trainings.boards(8))
    return task, torch.cat([parameter.detach().flatten() for parameter in task.parameters()])


@pytest.mark.filterwarnings("ignore")
def test_training_obeys_and_loggers_record(tmp_path: Path) -> None:
    task, auto = weights(folder=tmp_path)
    assert task.recipe.second_order == "auto"
    assert torch.equal(auto, weights(second_order="exact")[1])
    other, central = weights(True, tmp_path)
    assert other.second_order is not None
    assert other.second_order.way == "central"
    assert torch.equal(central, weights(second_order="central")[1])
    assert not torch.equal(central, auto)
    first, second = (path.read_text() for path in sorted(tmp_path.rglob("hparams.yaml")))
    assert "second_order/way: exact" in first
    assert "second_order/nudge: 0.005" in second
    assert "auto: checkpointed activations" in second
