"""Graphs that keep less: the same numbers in less memory."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import NETWORKS, WIDTH, make_network, make_space, make_table, make_target, normal, seeded

import ebt.nn.second_order
from ebt.nn import NetworkConfig
from ebt.nn.blocks import Block
from ebt.thinking import Recipe, supervise
from ebt.thinking.fast import saving

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors take the way of large ones."""
    monkeypatch.setattr(ebt.nn.second_order, "SMALL", 0)


def run(block: Block, x: Tensor, less: bool, waits: bool = False) -> Tensor:
    with saving.saving_less(less, waits):
        output, *_ = block(x, lambda q, k, v: (ebt.nn.second_order.attend(q, k, v),))
    found: Tensor = output
    return found


def inputs(module: nn.Module) -> list[Any]:
    """References to the memory of the inputs of a module, filled by its calls."""
    found: list[Any] = []
    module.register_forward_pre_hook(lambda _, given: found.append(weakref.ref(given[0].untyped_storage())))
    return found


@pytest.mark.parametrize("less", [True, False])
def test_products_are_kept_or_not(less: bool) -> None:
    block = Block(NetworkConfig(1, 16, 2))
    products, normed, middle = inputs(block.down), inputs(block.up), inputs(block.ffn_norm)
    output = run(block, torch.randn(2, 3, 16, requires_grad=True), less)
    assert [found[0]() is None for found in (products, normed, middle)] == [less] * 3
    output.sum().backward()


def test_a_graph_that_waits_keeps_the_input_of_its_feed_forward_layer() -> None:
    block, x = Block(NetworkConfig(1, 16, 2)), torch.randn(2, 3, 16, requires_grad=True)
    found, middle, opened = [], inputs(block.ffn_norm), list[Any]()
    block.gate.register_forward_hook(lambda *given: opened.append(weakref.ref(given[2].untyped_storage())))  # type: ignore[union-attr]
    for waits in (True, False):
        output = run(block, x, True, waits)
        assert (middle[-1]() is None, opened[-1]() is None) == (not waits, waits)
        found.append([output, *torch.autograd.grad(output.sin().sum(), [x, *block.parameters()])])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_computed_again_draws_the_same() -> None:
    block, x, found = Block(NetworkConfig(1, 16, 2)), torch.randn(2, 3, 16), list[Tensor]()
    block.up = nn.Sequential(block.up, nn.Dropout(0.5))  # type: ignore[assignment]
    for waits in (True, False):
        torch.manual_seed(0)
        (slope,) = torch.autograd.grad(run(block, x, True, waits).sum(), block.down.weight)
        found.append(slope)
    assert torch.equal(*found)


def test_first_and_second_derivatives_are_equal() -> None:
    torch.manual_seed(0)
    block, x = Block(NetworkConfig(1, 16, 2)), torch.randn(2, 3, 16, requires_grad=True)
    found = []
    for less in (True, False):
        output = run(block, x, less)
        (slope,) = torch.autograd.grad(output.sin().sum(), x, create_graph=True)
        found.append([output, slope, *torch.autograd.grad(slope.square().sum(), [x, *block.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_no_other_tensor_takes_the_place_of_one_that_is_computed_again() -> None:
    with saving.saving_less(True), saving.block():
        value = saving.again(torch.ones(4), lambda: torch.full((4,), 7.0))
        weight = torch.ones(4, requires_grad=True)
        output = (value * weight).sum()
        other = (value.clone() * weight).sum()
    assert torch.autograd.grad(output, weight)[0].tolist() == [7.0] * 4
    assert torch.autograd.grad(other, weight)[0].tolist() == [1.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [Recipe.s1(2), Recipe(2, 2), Recipe(5, 5, loss="last")])
@pytest.mark.parametrize(("kind", "variant"), NETWORKS)
def test_training_is_the_same(kind: str, variant: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    network, table = make_network(kind, variant, head_std=0.3), make_table()
    made = make_space("compact-restart", table, 2 if kind == "decoder" else 1)
    start = made.geometry.start((2, 3), 1.0, seeded(3))
    context, target = normal(2, 3, WIDTH, seed=7), make_target("compact-restart", 2, 3)

    def taken(second_order: str) -> list[Tensor | None]:
        how = replace(recipe, second_order=second_order)
        loss = supervise(network.encode(context), made.geometry, made.update, start, target, 0.5, how, seeded(4)).loss
        return list(torch.autograd.grad(loss, [table, *network.parameters()], allow_unused=True))

    less = taken("central")
    monkeypatch.setattr(saving, "saves_less", lambda: False)
    for one, other in zip(less, taken("central"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
