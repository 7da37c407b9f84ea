"""Averaged weights: before averaging starts, the weights are those of a training without it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from ebt.cli.main import main
from ebt.problems.folder import load_folder
from ebt.training.averaging import WeightAverage
from tests.support.trainings import Average, train

Weights = dict[str, Tensor]
VALIDATED: dict[str, Any] = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_before_its_start_nothing_differs(tmp_path: Path) -> None:
    average = Average(update_starting_at_step=100)
    task, _ = train("own", tmp_path, updates=4, callbacks=[average], save_at=3, file=tmp_path / "with.ckpt", **VALIDATED)
    plain = Average(decay=0.0)
    other, _ = train("own", tmp_path, updates=4, callbacks=[plain], save_at=3, file=tmp_path / "without.ckpt", **VALIDATED)
    assert equal(task.state_dict(), other.state_dict())
    assert average.losses == plain.losses
    assert len(set(average.losses)) > 1
    saved, wanted = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("with", "without"))
    assert equal(saved["state_dict"], wanted["current_model_state"])


def test_a_training_resumed_before_the_start_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def averaged(**settings: Any) -> Weights:
        task, _ = train("own", tmp_path, updates=6, callbacks=[WeightAverage(decay=0.5, update_starting_at_step=4)], **settings)
        return task.state_dict()

    whole = averaged(save_at=2, file=tmp_path / "early.ckpt", **VALIDATED)
    assert equal(whole, averaged(resume=tmp_path / "early.ckpt"))


def test_what_it_averages_is_what_lightning_averages(tmp_path: Path) -> None:
    found = []
    for kind in (WeightAverage, EMAWeightAveraging):
        task, _ = train("own", tmp_path, updates=6, callbacks=[kind(decay=0.5, update_starting_at_step=2)])
        found.append(task.state_dict())
    assert equal(*found)


def test_a_short_run_of_the_configuration_leaves_a_trained_model(tmp_path: Path) -> None:
    small = (
        "--data.train_count 8 --data.validation_count 2 --data.test_count 2 --data.test_givens [16] --data.train_givens [18,20]"
    )
    few = "--trainer.max_steps 2 --trainer.val_check_interval 1 --model.network.size nano --model.network.layers 1"
    models = []
    for name, more in (("with", []), ("without", ["--trainer.callbacks", "null"])):
        line = ["fit", "--config", "sudoku/latent", "--out", str(tmp_path / name), *small.split(), *few.split(), *more]
        assert main(line) == 0
        models.append(load_folder(tmp_path / name / "model").state_dict())
    assert equal(*models)
