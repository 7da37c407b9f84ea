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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from trainings import assert_same, assert_same_updates, found

from ebt.errors import InputError
from ebt.thinking import Recipe
from ebt.training import sharding
from ebt.training.sharded_checkpoints import load_shards, save_shards
from ebt.training.sharding import Sharded, refuse_sharding, supported
from ebt.training.task import ResumeWarning

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left. They resume from what one left."""
    folder = tmp_path_factory.mktemp("sharded")
    trainings.write_text(folder)
    (folder / "images").mkdir()
    for i in range(8):
        Image.effect_noise((8, 8), 10 * i + 10).convert("RGB").save(folder / "images" / f"{i}.png")
    task, _ = trainings.train("text", folder, updates=6, central=True, save_at=3, file=folder / "of-one.ckpt")
    torch.save(task.state_dict(), folder / "one.pt")
    trainings.launch(folder, trainings.sharded)
    return folder


@pytest.mark.parametrize("case", trainings.SHARDED_CASES)
def test_sharded_updates_are_those_of_one_process(case: str, folder: Path) -> None:
    task, watch = trainings.train(case, folder, central=True)
    for rank in range(2):
        two = found(folder, rank)[case]
        assert_same_updates(two, watch)
        assert_same(two["clipped"], watch.clipped)
        assert_same(two["weights"], task.state_dict())


def test_sharded_gradients_are_clipped_by_their_norm_over_all_processes(folder: Path) -> None:
    two = found(folder, 0)["text"]
    before, after = (torch.nn.utils.get_total_norm(known.values()) for known in (two["gradients"][-1], two["clipped"]))
    assert before > 1
    assert after == pytest.approx(1, abs=1e-4)


def test_each_process_holds_half_of_weights_and_optimiser_between_updates(folder: Path) -> None:
    for case in trainings.SHARDED_CASES:
        shares = [found(folder, rank)[case]["shares"] for rank in range(2)]
        assert all(0.45 < share < 0.55 for both in shares for share in both), shares


@pytest.mark.parametrize("case", ["text_own", "checkpointed"])
def test_one_block_is_gathered_at_a_time(case: str, folder: Path) -> None:
    assert [found(folder, rank)[case]["gathered"] for rank in range(2)] == [1, 1]


def test_blocks_gathered_in_bfloat16_train_alike(folder: Path) -> None:
    _, watch = trainings.train("text_own", folder, precision="bf16-mixed")
    assert found(folder, 0)["bf16-mixed"] == pytest.approx(watch.losses, rel=5e-3)


@pytest.mark.parametrize("case", ["drawn", "images"])
def test_sharded_training_is_that_of_ddp_with_the_draws_of_each_process(case: str, folder: Path) -> None:
    for rank in range(2):
        left = found(folder, rank)
        for what in ("weights", "average"):
            assert_same(left[f"{case}-sharded"][what], left[f"{case}-ddp"][what])
    states = []
    for name in ("sharded", "ddp"):
        path = folder / f"{case}-{name}.ckpt"
        assert path.is_dir() == (name == "sharded")
        saved = load_shards(path) if path.is_dir() else torch.load(path, weights_only=True)
        optimiser = saved["optimizer_states"][0]["state"]
        moments = {f"{key}-{name}": value for key, state in optimiser.items() for name, value in state.items()}
        states.append({**saved["state_dict"], **moments})
    assert_same(*states)


def test_averaged_weights_are_validated_as_with_ddp(folder: Path) -> None:
    for rank in range(2):
        left = found(folder, rank)
        assert left["validated-sharded"] == pytest.approx(left["validated-ddp"], abs=1e-5)
        *during, last, after = left["validated-sharded"]  # the first before training, the last after it
        assert len({*during, last}) == 3
        assert last == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("name", ["sharded-again", "sharded-after-ddp", "ddp-after-sharded"])
def test_a_run_resumes_with_sharded_weights_as_if_never_stopped(name: str, folder: Path) -> None:
    for rank in range(2):
        left = found(folder, rank)
        for what in ("weights", "average"):
            assert_same(left["drawn-sharded"][what], left[name][what])
            if name == "sharded-again":
                assert all(torch.equal(left["drawn-sharded"][what][key], left[name][what][key]) for key in left[name][what])


def test_a_run_resumes_on_another_number_of_processes(folder: Path) -> None:
    """Without random draws, as if never stopped."""
    whole = torch.load(folder / "one.pt", weights_only=True)
    for rank in range(2):
        assert_same(found(folder, rank)["after one"], whole)
    with pytest.warns(ResumeWarning, match="with world size 2, and this run has world size 1"):
        task, _ = trainings.train("text", folder, updates=6, central=True, resume=folder / "of-two.ckpt")
    assert_same(task.state_dict(), whole)


def test_replay_buffers_are_shared_out_again(folder: Path) -> None:
    task, _ = trainings.train("drawn", folder, updates=2, central=True, resume=folder / "drawn-sharded.ckpt")
    saved = load_shards(folder / "drawn-sharded.ckpt")["thinking"]
    states = [own["replay"]["records"][-1]["state"] for own in saved]
    assert task.replay is not None
    kept = [record["state"] for record in task.replay.state_dict()["records"]]
    assert len(kept) == 12
    assert all(any(torch.equal(state, other) for other in kept) for state in states)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        weight = distribute_tensor(torch.arange(6.0).view(3, 2), mesh, [Shard(0)])
        save_shards({"weights": [weight], "step": 1}, tmp_path / "last.ckpt")

        def fail(*_: Any) -> None:
            raise OSError("no space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(torch, "save", fail)
            with pytest.raises(InputError, match=r"no space left.*previous checkpoint is intact"):
                save_shards({"weights": [weight + 1], "step": 2}, tmp_path / "last.ckpt")
        found = load_shards(tmp_path / "last.ckpt", mesh)
        assert isinstance(found["weights"][0], DTensor)
        assert found["step"] == 1
        assert torch.equal(found["weights"][0].full_tensor(), weight.full_tensor())
        assert torch.equal(load_shards(tmp_path / "last.ckpt")["weights"][0], weight.full_tensor())
        save_shards({"weights": [weight + 1], "step": 2}, tmp_path / "last.ckpt")
        assert load_shards(tmp_path / "last.ckpt")["step"] == 2
        assert len(list((tmp_path / "last.ckpt").iterdir())) == 2
    finally:
        torch.distributed.destroy_process_group()


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_shards(tmp_path)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "model_parallel", ModelParallelStrategy(2, 1)])
def test_data_parallel_sharding_by_any_name(strategy: Any) -> None:
    found = supported(strategy)
    assert isinstance(found, Sharded)
    assert found.cpu_offload == (strategy == "fsdp_cpu_offload")


@pytest.mark.parametrize(
    "strategy", ["deepspeed_stage_2", "xla", FSDPStrategy(), ModelParallelStrategy(), ModelParallelStrategy(1, 2)]
)
def test_other_sharding_is_refused_with_the_remedy(strategy: Any) -> None:
    with pytest.raises(InputError, match=r"not supported.*use fsdp"):
        supported(strategy)


def test_an_old_version_of_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "fully_shard", lambda module: module)
    with pytest.raises(InputError, match=r"need torch 2\.7"):
        supported("fsdp")


@pytest.mark.parametrize("strategy", ["auto", "ddp", DDPStrategy(), Sharded()])
def test_what_does_not_shard_or_does_it_right_stays(strategy: Any) -> None:
    assert supported(strategy) is strategy
    refuse_sharding(strategy)


def test_a_task_refuses_a_strategy_that_shards(tmp_path: Path) -> None:
    task, data = trainings.parts("s1", 4, tmp_path)
    trainer = L.Trainer(accelerator="cpu", strategy=ModelParallelStrategy(), logger=False)
    with pytest.raises(InputError, match=r"ModelParallelStrategy.*ebt\.training\.sharding\.Sharded"):
        trainer.fit(task, datamodule=data)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (Recipe(second_order="exact"), r"second_order is exact.*central or auto"),
        (Recipe(rows_at_once=1), "rows_at_once is 1"),
        (Recipe(ranking=0.5), r"ranking is 0\.5.*ddp"),
        (Recipe(burn_in=2), "burn_in is 2.*ddp"),
    ],
)
def test_recipes_that_sharding_does_not_support_are_refused(recipe: Recipe, reason: str, tmp_path: Path) -> None:
    task, data = trainings.parts("s1", 4, tmp_path)
    task.recipe = recipe
    trainer = L.Trainer(accelerator="cpu", strategy=Sharded(), logger=False, enable_model_summary=False)
    with pytest.raises(InputError, match=reason):
        trainer.fit(task, datamodule=data)
