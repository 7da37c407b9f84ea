"""Rotary embeddings: exact on any device, also on those without double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ebt.nn import CausalTransformer, NetworkConfig
from ebt.nn.blocks import rotation


class Doubles(TorchDispatchMode):
    """Collects operations that leave float64 on another device than the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float64 and leaf.device.type != "cpu":
                self.found.append(str(func))
        return result


def test_turns_are_those_of_double_precision() -> None:
    positions = torch.tensor([0, 1, 5000, 100_000])
    angle = positions.double().unsqueeze(-1) * 10_000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    turns = rotation(positions, 8, 10_000.0, torch.empty(0))
    assert torch.equal(turns, torch.complex(angle.cos().float(), angle.sin().float()))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_positions_may_be_on_another_device(device: str) -> None:
    turns = rotation(torch.arange(3), 8, 10_000.0, torch.empty(0, device=device))
    assert (turns.device.type, turns.shape) == (device, (3, 4))


def test_no_float64_is_created_on_a_device() -> None:
    network = CausalTransformer(NetworkConfig(layers=2, dim=16, heads=2)).to("meta")
    with Doubles() as doubles:
        hidden = network(torch.empty(2, 5, 16, device="meta"))
    assert hidden.device.type == "meta"
    assert doubles.found == []
