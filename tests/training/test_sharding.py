"""Sharded weights in two processes with gloo: the updates of one process, its checkpoints, its model; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import trainings
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from PIL import Image
from trainings import assert_same, assert_same_updates, found

from ebt.errors import InputError
from ebt.training.sharding import Sharded, refuse_sharding, supported

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("sharded")
    trainings.write_text(folder)
    (folder / "images").mkdir()
    for i in range(8):
        Image.effect_noise((8, 8), 10 * i + 10).convert("RGB").save(folder / "images" / f"{i}.png")
    trainings.launch(folder, trainings.sharded)
    return folder


@pytest.mark.parametrize("case", trainings.SHARDED_CASES)
def test_sharded_updates_are_those_of_one_process(case: str, folder: Path) -> None:
    task, watch = trainings.train(case, folder)
    for rank in range(2):
        two = found(folder, rank)[case]
        assert_same_updates(two, watch)
        assert_same(two["clipped"], watch.clipped)
        for name, weight in task.state_dict().items():
            assert torch.allclose(two["weights"][name], weight, atol=1e-4), name


def test_sharded_gradients_are_clipped_by_their_norm_over_all_processes(folder: Path) -> None:
    two = found(folder, 0)["text"]
    before, after = (torch.nn.utils.get_total_norm(known.values()) for known in (two["gradients"][1], two["clipped"]))
    assert before > 1
    assert after == pytest.approx(1, abs=1e-4)


def test_each_process_holds_half_of_weights_and_optimiser_between_updates(folder: Path) -> None:
    for case in trainings.SHARDED_CASES:
        shares = [found(folder, rank)[case]["shares"] for rank in range(2)]
        assert all(0.45 < share < 0.55 for both in shares for share in both), shares


@pytest.mark.parametrize("case", ["drawn", "images"])
def test_sharded_training_is_that_of_ddp_with_the_draws_of_each_process(case: str, folder: Path) -> None:
    for rank in range(2):
        left = found(folder, rank)
        for what in ("weights", "average"):
            assert_same(left[f"{case}-sharded"][what], left[f"{case}-ddp"][what])
    saved = [torch.load(folder / f"{case}-{name}.ckpt", weights_only=True) for name in ("sharded", "ddp")]
    states = [
        {**ckpt["state_dict"], **{f"{key}-{name}": value for key, state in ckpt["optimizer_states"][0]["state"].items()
         for name, value in state.items()}} for ckpt in saved
    ]  # fmt: skip
    assert_same(*states)


@pytest.mark.parametrize("name", ["sharded-again", "sharded-after-ddp", "ddp-after-sharded"])
def test_a_run_resumes_with_sharded_weights_as_if_never_stopped(name: str, folder: Path) -> None:
    for rank in range(2):
        left = found(folder, rank)
        for what in ("weights", "average"):
            assert_same(left["drawn-sharded"][what], left[name][what])
            if name == "sharded-again":
                assert all(torch.equal(left["drawn-sharded"][what][key], left[name][what][key]) for key in left[name][what])


@pytest.mark.parametrize("strategy", ["fsdp", "model_parallel", ModelParallelStrategy(2, 1)])
def test_data_parallel_sharding_by_any_name(strategy: Any) -> None:
    assert isinstance(supported(strategy), Sharded)


@pytest.mark.parametrize(
    "strategy", ["deepspeed_stage_2", "fsdp_cpu_offload", FSDPStrategy(), ModelParallelStrategy(), ModelParallelStrategy(1, 2)]
)
def test_other_sharding_is_refused_with_the_remedy(strategy: Any) -> None:
    with pytest.raises(InputError, match=r"gradients of gradients fail.*Use fsdp"):
        supported(strategy)


@pytest.mark.parametrize("strategy", ["auto", "ddp", DDPStrategy(), Sharded()])
def test_what_does_not_shard_or_does_it_right_stays(strategy: Any) -> None:
    assert supported(strategy) is strategy
    refuse_sharding(strategy)


def test_a_task_refuses_a_strategy_that_shards(tmp_path: Path) -> None:
    task, data = trainings.parts("s1", 4, tmp_path)
    trainer = L.Trainer(accelerator="cpu", strategy=ModelParallelStrategy(), logger=False)
    with pytest.raises(InputError, match=r"ModelParallelStrategy.*ebt\.training\.sharding\.Sharded"):
        trainer.fit(task, datamodule=data)
