"""Frames: both kinds of models, the recipes, metrics, contradictions."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from small_models import QUIET
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.video.data import VideoDataModule
from ebt.problems.video.task import VideoNetwork, VideoTask
from ebt.thinking import Recipe

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = ("ebt", "transformer_pp")
S2 = Recipe.s2(min_steps=2, max_steps=3, noise=0.01, replay_size=8, replay_fraction=0.5)


def make_task(kind: Any = "ebt", **settings: Any) -> VideoTask:
    network: dict[str, Any] = {"kind": kind, "layers": 1, "dim": 16, "heads": 2}
    return VideoTask(VideoNetwork(**network), **settings)


def make_data(**settings: Any) -> VideoDataModule:
    own = {"size": 10, "context_length": 3, "clips": 8, "evaluation_clips": 6, "batch_size": 4}
    return VideoDataModule(**{**own, **settings})


def fit(task: VideoTask, updates: int = 2, **settings: Any) -> L.Trainer:
    trainer = L.Trainer(**QUIET, max_steps=updates)
    trainer.fit(task, make_data(**settings))
    return trainer


@pytest.mark.parametrize("encoder", ["pixels", "patches:5:10"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_train_and_are_measured(kind: str, encoder: str) -> None:
    task = make_task(kind)
    trainer = fit(task, encoder=encoder)
    assert trainer.global_step == 2
    assert {"val/loss", "val/repeat"} <= set(trainer.callback_metrics)
    assert ("val/loss_at_8" in trainer.callback_metrics) == (kind == "ebt")
    assert not any(name.startswith("val/repeat_at") for name in trainer.callback_metrics)
    metrics: dict[str, float] = {}
    for found in trainer.test(task, make_data(encoder=encoder), verbose=False):
        metrics |= found
    assert metrics["test/shifted/repeat"] != metrics["test/digits/repeat"]
    assert task.model.config.encoding == {"encoder": encoder, "size": 10, "channels": 1, "seconds": 0.25}
    assert task.model.config.context_length == 3


def test_losses_are_smooth_l1_of_the_next_frames() -> None:
    task, data = make_task("transformer_pp"), make_data(evaluation_batch_size=6)
    trainer = L.Trainer(**QUIET)
    trainer.validate(task, data, verbose=False)
    (batch,) = data.val_dataloader()
    frames: Tensor = batch["frames"]
    with torch.no_grad():
        expected = F.smooth_l1_loss(task.model(frames[:, :-1]), frames[:, 1:])
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    repeat = F.smooth_l1_loss(frames[:, :-1], frames[:, 1:])
    assert trainer.callback_metrics["val/repeat"].item() == pytest.approx(repeat.item(), rel=1e-5)


def test_a_fresh_ebt_predicts_its_starts() -> None:
    task, data = make_task(recipe=Recipe(start_std=0.0)), make_data(evaluation_batch_size=6)
    trainer = L.Trainer(**QUIET)
    trainer.validate(task, data, verbose=False)
    (batch,) = data.val_dataloader()
    expected = F.smooth_l1_loss(torch.zeros_like(batch["frames"][:, 1:]), batch["frames"][:, 1:])
    for name in ("loss", "loss_at_1", "loss_at_8"):
        assert trainer.callback_metrics[f"val/{name}"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("recipe", [Recipe.s1(), S2, Recipe(min_steps=1, max_steps=2, start_std=0.1)])
def test_a_step_of_every_recipe_learns(recipe: Recipe) -> None:
    task = make_task(recipe=recipe)
    trainer = fit(task, 3)
    before = torch.cat([parameter.detach().flatten() for parameter in make_and_build(recipe).parameters()])
    after = torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()])
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
    assert trainer.callback_metrics["train/gradient_norm"] > 0


def make_and_build(recipe: Recipe) -> Any:
    task = make_task(recipe=recipe)
    trainer = L.Trainer(**QUIET)
    trainer.validate(task, make_data(), verbose=False)
    return task.model


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_trains_alike(kind: str) -> None:
    tasks = [make_task(kind), make_task(kind), make_task(kind, seed=1)]
    for task in tasks:
        fit(task)
    weights = [torch.cat([parameter.flatten() for parameter in task.parameters()]) for task in tasks]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_replayed_frames_go_on_where_they_ended() -> None:
    task = make_task(recipe=S2)
    fit(task, 3)
    assert task.replay is not None
    assert len(task.replay) == 8


def test_settings_that_contradict_each_other_are_named() -> None:
    with pytest.raises(InputError, match=r"recipe\.max_steps: a model of kind transformer_pp does not think"):
        make_task("transformer_pp", recipe=Recipe(min_steps=1, max_steps=4, start_std=0.3))
    with pytest.raises(InputError, match=r"network\.head: a model of kind transformer_pp"):
        VideoTask(VideoNetwork(kind="transformer_pp", head="linear"))
    with pytest.raises(InputError, match=r"network\.input_gradient: VideoNetwork has no use"):
        VideoNetwork(input_gradient=False)
    with pytest.raises(InputError, match=r"network\.tied_candidates is for kind ebt"):
        VideoNetwork(kind="transformer_pp", tied_candidates=True)
    with pytest.raises(InputError, match=r"network\.space is 'mirror': choose one of euclidean, restart"):
        VideoNetwork(space="mirror")
