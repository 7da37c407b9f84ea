"""Two processes with gloo train as one does; what is drawn, replayed and saved in each; accumulated gradients."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import trainings
from trainings import assert_same_updates, found

from ebt.errors import InputError
from ebt.problems.language.configuration import EBTConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.training.rehearsal import Update, rehearse
from ebt.training.sampling import ResumableSampler
from ebt.training.sharding import full
from ebt.training.task import ResumeWarning

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left that were started as torchrun starts them."""
    folder = tmp_path_factory.mktemp("processes")
    trainings.write_text(folder)
    trainings.launch(folder, trainings.ddp)
    return folder


@pytest.mark.parametrize("case", trainings.CASES)
def test_two_processes_have_the_gradients_and_losses_of_one(case: str, folder: Path) -> None:
    _, watch = trainings.train(case, folder)
    for rank in range(2):
        two = found(folder, rank)[case]
        assert_same_updates(two, watch)


def test_all_processes_think_for_as_many_steps_from_starts_of_their_own(folder: Path) -> None:
    one, other = (found(folder, rank) for rank in range(2))
    assert one["schedules"] == other["schedules"]
    assert len(set(one["schedules"])) > 1
    assert not any(torch.equal(a, b) for a, b in zip(one["replay"], other["replay"], strict=True))


def test_each_process_resumes_with_its_own_draws_and_its_own_replay(folder: Path) -> None:
    for rank in range(2):
        left = found(folder, rank)
        assert all(torch.equal(left["whole"][name], left["resumed"][name]) for name in left["whole"])
        assert len(left["replay"]) == 12
        assert all(torch.equal(a, b) for a, b in zip(left["replay"], left["replay_resumed"], strict=True))
    saved = torch.load(folder / "drawn.ckpt", weights_only=True)["thinking"]
    states = [[record["state"] for record in own["replay"]["records"]] for own in saved]
    assert [len(own) for own in states] == [12, 12]
    assert not torch.equal(states[0][0], states[1][0])


def test_another_number_of_processes_resumes_with_new_draws(folder: Path) -> None:
    saved = torch.load(folder / "drawn.ckpt", weights_only=True)["thinking"]
    newest = [own["replay"]["records"][-1]["state"] for own in saved]
    with pytest.warns(ResumeWarning, match="with world size 2, and this run has world size 1"):
        task, _ = trainings.train("drawn", folder, updates=4, resume=folder / "drawn.ckpt")
    assert task.replay is not None
    kept = [record["state"] for record in task.replay.state_dict()["records"]]
    assert len(kept) == 12
    assert all(torch.equal(state, other) for state, other in zip(newest[::-1], kept[-2:], strict=True))
    generators = {name: own["generators"]["cpu"] for name, own in enumerate(saved)}
    assert not any(torch.equal(task.generator("cpu").get_state(), state) for state in generators.values())
    assert torch.equal(task.generator("shared").get_state(), saved[0]["generators"]["shared"])


def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path: Path) -> None:
    """For as many scored parts in each, as in packed text."""
    trainings.write_text(tmp_path)
    _, whole = trainings.train("text", tmp_path, batch_size=8)
    _, halves = trainings.train("text", tmp_path, batch_size=4, accumulate_grad_batches=2)
    losses = [sum(halves.losses[i : i + 2]) for i in range(0, len(halves.losses), 2)]
    assert_same_updates({"losses": losses, "gradients": halves.gradients}, whole)


def test_more_processes_than_examples_are_refused() -> None:
    with pytest.raises(InputError, match="3 processes train on 2 examples"):
        ResumableSampler([0, 1], num_replicas=3)


def test_checkpointed_activations_are_not_kept() -> None:
    """What an update takes beside weights, gradients and states, on fake tensors."""

    def make(checkpointed: bool) -> Update:
        config = EBTConfig(16, 64, layers=6, dim=16, heads=2, head_init="unit", recipe={"second_order": "central"})
        model = EBTForCausalLM(config).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        ids = torch.zeros(2, 64, dtype=torch.long)
        optimiser = torch.optim.AdamW(model.parameters())
        return Update(model, optimiser, lambda: model(ids, labels=ids, generator=torch.Generator().manual_seed(0)).loss)

    plain, less = (rehearse(partial(make, checkpointed), nullcontext()) for checkpointed in (False, True))
    assert less.activations < plain.activations / 2


@pytest.mark.parametrize("way", ["exact", "central"])
def test_checkpointed_activations_change_nothing(way: str) -> None:
    ids, found = torch.arange(8)[None], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = EBTForCausalLM(
            EBTConfig(16, 8, recipe={"second_order": way}, head_init="unit", head="bilinear", **trainings.SIZES)
        )
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.double().train()(ids, labels=ids, generator=torch.Generator().manual_seed(0)).loss.backward()
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        assert model.eval()(ids).logits is not None
    torch.testing.assert_close(*found)


def test_fully_shard_takes_the_whole_model_or_is_refused() -> None:
    fully_shard = pytest.importorskip("torch.distributed.fsdp").fully_shard
    torch.manual_seed(0)
    whole, parts = (EBTForCausalLM(EBTConfig(vocab_size=16, dim=16, layers=1, heads=2)).train() for _ in range(2))
    ids = torch.arange(8)[None]
    expected = whole(ids, labels=ids, generator=torch.Generator().manual_seed(0)).loss
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(whole, ignored_params={whole.step_size.log_scale})
        assert torch.equal(whole(ids, labels=ids, generator=torch.Generator().manual_seed(0)).loss, expected)
        fully_shard(parts.network.blocks[0])
        with pytest.raises(InputError, match=r"network\.blocks\.0\..* is sharded"):
            parts(ids, labels=ids)
        parts.eval()
        plain = EBTForCausalLM(parts.config)
        plain.load_state_dict(full(parts.state_dict()))
        assert torch.equal(parts(ids).logits, plain.eval()(ids).logits)
        assert torch.equal(parts.generate(ids[:, :2], max_new_tokens=3), plain.generate(ids[:, :2], max_new_tokens=3))
    finally:
        torch.distributed.destroy_process_group()
