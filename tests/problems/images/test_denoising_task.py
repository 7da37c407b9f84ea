"""Denoising: noise from the task's generators, both kinds of models, metrics and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from small_images import photo_folder
from small_models import QUIET
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.data import ImageDataModule
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.task import DenoisingNetwork, DenoisingTask
from ebt.thinking import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = ("ebt", "dit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return photo_folder(tmp_path_factory.mktemp("photos") / "all", count=8)


def make_task(kind: Any = "ebt", **settings: Any) -> DenoisingTask:
    network: dict[str, Any] = {"kind": kind, "layers": 1, "dim": 8, "heads": 2, "patch_size": 4}
    return DenoisingTask(DenoisingNetwork(**network), **settings)


def make_data(folder: str, **settings: Any) -> ImageDataModule:
    return ImageDataModule(folder, size=8, crops=2, evaluation_crops=2, batch_size=4, fractions=(0.5, 0.25, 0.25), **settings)


def fit(task: DenoisingTask, data: ImageDataModule, updates: int = 2, **settings: Any) -> L.Trainer:
    trainer = L.Trainer(**{**QUIET, **settings}, max_steps=updates)
    trainer.fit(task, data)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_train_and_are_measured_at_every_level(kind: str, folder: str) -> None:
    task, data = make_task(kind), make_data(folder)
    trainer = fit(task, data)
    assert trainer.global_step == 2
    assert {"val/loss", "val/psnr"} <= set(trainer.callback_metrics)
    assert ("val/psnr_at_6" in trainer.callback_metrics) == (kind == "ebt")
    (metrics,) = trainer.test(task, data, verbose=False)[:1]
    assert metrics["test/noise_0.1/psnr"] > metrics["test/noise_0.2/psnr"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_trains_alike(kind: str, folder: str) -> None:
    first, second, other = make_task(kind), make_task(kind), make_task(kind, seed=1)
    for task in (first, second, other):
        fit(task, make_data(folder))
    weights = [torch.cat([p.flatten() for p in task.parameters()]) for task in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def batch_of(folder: str) -> dict[str, Tensor]:
    data = make_data(folder)
    data.prepare()
    return next(iter(data.test_dataloader()[0]))


def test_it_starts_at_the_noisy_image_of_its_level(folder: str) -> None:
    task, batch = make_task(level=0.2), batch_of(folder)
    generator = torch.Generator().manual_seed(0)
    start = task.start({"image": batch["image"]}, 2, generator)
    noise = torch.randn(batch["image"][:2].shape, generator=generator.manual_seed(0))
    kept = NoiseSchedule.linear().kept[199]
    expected = kept.sqrt() * batch["image"][:2] + (1 - kept).sqrt() * noise
    torch.testing.assert_close(start, expected.float())
    assert batch["level"].tolist() == pytest.approx([0.1] * 4)
    assert not torch.allclose(task.start(batch, 2, generator.manual_seed(0)), start)


def test_a_fresh_model_has_the_psnr_of_the_noisy_image(folder: str) -> None:
    task, data = make_task(), make_data(folder)
    trainer = L.Trainer(**QUIET)
    trainer.validate(task, data, verbose=False)
    metrics = trainer.callback_metrics
    assert 15 < metrics["val/psnr"] < 19
    assert metrics["val/psnr"] == pytest.approx(metrics["val/psnr_at_6"].item())
    assert metrics["val/loss"].item() == pytest.approx(0.5 * (1 - 0.896), rel=0.2)


def test_replayed_images_go_on_where_they_ended(folder: str) -> None:
    task = make_task(recipe=Recipe(gradients="truncated", loss="last", replay_size=8, replay_fraction=0.5))
    fit(task, make_data(folder), updates=3)
    assert task.replay is not None
    assert len(task.replay) == 8


def test_predictions_are_images(folder: str) -> None:
    task, data = make_task(), make_data(folder)
    data.prepare()
    trainer = L.Trainer(**QUIET)
    trainer.validate(task, data, verbose=False)
    predicted = trainer.predict(task, data.test_dataloader()[0])
    assert predicted is not None
    assert predicted[0].shape == (4, 3, 8, 8)


def test_pictures_are_logged_after_every_second_validation(folder: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = L.pytorch.loggers.TensorBoardLogger(tmp_path, name="", version="")
    fit(make_task(picture_every=2), make_data(folder), updates=8, logger=logger, val_check_interval=2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    pictures = events.Images("denoised")
    assert len(pictures) == 2
    assert (pictures[0].height, pictures[0].width) == (24, 32)


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(InputError, match="level is 2"):
        make_task(level=2)
    with pytest.raises(InputError, match=r"recipe\.max_steps: a model of kind dit does not think"):
        make_task("dit", recipe=Recipe(min_steps=1, max_steps=4))
    with pytest.raises(InputError, match=r"network\.head: a model of kind dit"):
        DenoisingTask(DenoisingNetwork(kind="dit", head="linear"))
