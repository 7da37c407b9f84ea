"""Rotary embeddings: exact on any device, also on those without double precision. An adapter of the energy head."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import WIDTH, make_network, normal

from ebt.nn import CausalTransformer, NetworkConfig
from ebt.nn.blocks import EnergyHead, rotation


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


class Adapted(nn.Module):
    """A linear map with a low-rank one beside it, as adapters place it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


@pytest.mark.parametrize("kind", ["linear", "bilinear", "quadratic"])
def test_an_adapter_of_the_energy_head_counts(kind: Any) -> None:
    head, x, candidate = (
        EnergyHead(NetworkConfig(dim=16, heads=2, head=kind), 2.0),
        torch.randn(3, 5, 16),
        torch.randn(3, 5, 16),
    )
    adapted = deepcopy(head)
    adapted.projection = Adapted(adapted.projection)  # type: ignore[assignment]
    together = adapted.projection.base.weight + adapted.projection.up.weight @ adapted.projection.down.weight
    head.projection.weight.data.copy_(together)
    torch.testing.assert_close(adapted(x, candidate), head(x, candidate))


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_grouped_queries_equal_repeated_keys_and_values(kind: str) -> None:
    """Queries that share a head of keys and values, against a network that repeats the weights of that head."""
    grouped, full = make_network(kind, "grouped"), make_network(kind)
    weights = {
        name: weight.repeat(2, 1) if name.endswith(("key.weight", "value.weight")) else weight
        for name, weight in grouped.state_dict().items()
    }
    full.load_state_dict(weights)
    x, candidate = normal(2, 3, WIDTH, seed=1), normal(2, 3, WIDTH, seed=2)
    torch.testing.assert_close(grouped.encode(x)(candidate, 0), full.encode(x)(candidate, 0))
    torch.testing.assert_close(grouped.encode(x).once()(candidate, 0), full.encode(x)(candidate, 0))
