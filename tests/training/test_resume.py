"""A resumed training equals an uninterrupted one, bit for bit, replay buffer included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from ebt.problems.sudoku.data import SudokuDataModule
from ebt.problems.sudoku.task import SudokuNetwork, SudokuTask
from ebt.thinking import Recipe

RECIPES = {
    "own": Recipe(),
    "s1": Recipe.s1(),
    "s2": Recipe.s2(replay_size=12, replay_fraction=0.5, ranking=0.3, burn_in=2, burn_in_start=0.3),
    "warm start": Recipe(warm_start=0.5, replay_size=12, replay_fraction=0.5),
}


class Stop(L.Callback):
    """Ends a training before its planned end, as an interruption does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.after


def train(folder: Path, recipe: Recipe, resume: Path | None = None, stop_after: int = 8) -> tuple[SudokuTask, Path]:
    """Train a tiny model on tiny boards for 8 updates, or part of them; 5 updates are an epoch."""
    data = SudokuDataModule(
        size=4, train_count=20, train_givens=(6, 9), validation_count=4, test_givens=(6,), test_count=1, batch_size=4
    )
    task = SudokuTask(SudokuNetwork("nano", layers=1, dim=8, heads=1, head="bilinear", rules=True), recipe, seed=7)
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "limit_val_batches": 0}
    callbacks = [L.pytorch.callbacks.ModelCheckpoint(folder, save_last=True, every_n_train_steps=1), Stop(stop_after)]
    trainer = L.Trainer(max_steps=8, max_epochs=-1, enable_model_summary=False, callbacks=callbacks, **settings)
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=False)
    assert trainer.global_step == stop_after
    return task, folder / "last.ckpt"


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore")
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", RECIPES[name])
    _, checkpoint = train(tmp_path / "part", RECIPES[name], stop_after=3)
    resumed, _ = train(tmp_path / "rest", RECIPES[name], resume=checkpoint)
    for (key, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), key
    if whole.replay is not None and resumed.replay is not None:
        assert len(whole.replay) == 12
        for one, other in zip(whole.replay.state_dict()["records"], resumed.replay.state_dict()["records"], strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)
