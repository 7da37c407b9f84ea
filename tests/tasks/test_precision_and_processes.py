"""Training in bf16 follows float32; two processes give what one gives."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ebt.hub import EBTConfig, EBTForCausalLM

WORDS, LENGTH, UPDATES = 19, 9, 12
RECIPES: dict[str, dict[str, Any]] = {
    "s1": {"min_steps": 2, "max_steps": 2, "gradients": "detached"},
    "s2": {"min_steps": 2, "max_steps": 2, "gradients": "truncated", "loss": "last"},
    "full": {"min_steps": 2, "max_steps": 2},
}


def make_model(recipe: str) -> EBTForCausalLM:
    torch.manual_seed(0)
    config = EBTConfig(WORDS, LENGTH, layers=2, dim=32, heads=2, start_std=0.0, recipe={**RECIPES[recipe], "start_std": 0.0})
    return EBTForCausalLM(config).train()


def make_batch(update: int, rows: int = 4) -> Tensor:
    """Counting upwards from random numbers."""
    first = torch.randint(0, WORDS, (rows, 1), generator=torch.Generator().manual_seed(update))
    return (first + torch.arange(LENGTH)) % WORDS


def losses_of(model: EBTForCausalLM, autocast: bool) -> list[float]:
    optimiser, found = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for update in range(UPDATES):
        batch = make_batch(update)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(batch, labels=batch)
        assert output.loss.dtype == torch.float32
        assert output.energies.dtype == torch.float32
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        found.append(output.loss.item())
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_training_in_bf16_follows_float32(recipe: str) -> None:
    """Bound: 3 % of ln V at every one of the first updates, over which the loss falls by far more."""
    exact = losses_of(make_model(recipe), autocast=False)
    mixed = losses_of(make_model(recipe), autocast=True)
    scale = torch.log(torch.tensor(float(WORDS))).item()
    assert exact[0] - exact[-1] > 0.2 * scale
    assert max(abs(a - b) for a, b in zip(exact, mixed, strict=True)) < 0.03 * scale


def gradients_of_one_process(recipe: str) -> list[Tensor]:
    model, batch = _moved(recipe), make_batch(0)
    model(batch, labels=batch).loss.backward()
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def _moved(recipe: str) -> EBTForCausalLM:
    """A model whose energy head is not zero."""
    model = make_model(recipe)
    torch.nn.init.normal_(model.network.head.projection.weight, std=0.3)
    return model


def _train_a_half(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for recipe in RECIPES:
        model = DistributedDataParallel(_moved(recipe))
        batch = make_batch(0)[2 * rank : 2 * rank + 2]
        model(batch, labels=batch).loss.backward()
        if rank == 0:
            torch.save([weight.grad for weight in model.parameters() if weight.grad is not None], f"{folder}/{recipe}.pt")
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(_train_a_half, (_free_port(), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    for recipe in RECIPES:
        found, expected = torch.load(tmp_path / f"{recipe}.pt"), gradients_of_one_process(recipe)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
