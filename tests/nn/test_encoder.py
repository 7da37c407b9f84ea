from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ENCODERS, WIDTH, conditioning, make_network, normal

from ebt.nn import EBTEncoder, NetworkConfig, Transformer

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS = 2, 5
X, CANDIDATE = normal(ROWS, PARTS, WIDTH, seed=1).double(), normal(ROWS, PARTS, WIDTH, seed=2).double()
FREE = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()


def encoder(variant: str = "plain") -> EBTEncoder:
    network = make_network("encoder", variant, layers=2)
    assert isinstance(network, EBTEncoder)
    return network


@pytest.mark.parametrize("variant", ENCODERS)
def test_candidates_of_given_parts_are_not_seen(variant: str) -> None:
    landscape, candidate = encoder(variant).encode(X, FREE), CANDIDATE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(landscape(candidate, 0).sum(), candidate)
    assert torch.equal(gradient.abs().amax(-1) > 0, FREE)


@pytest.mark.parametrize("variant", ENCODERS)
def test_every_part_sees_every_part_of_its_row(variant: str) -> None:
    candidate = CANDIDATE.clone().requires_grad_()
    energies = encoder(variant).encode(X)(candidate, 0)
    assert energies.shape == (ROWS, PARTS)
    for i in range(PARTS):
        (gradient,) = torch.autograd.grad(energies[0, i], candidate, retain_graph=True)
        assert (gradient[0].abs().amax(-1) > 1e-9).all()
        assert not gradient[1].any()


@pytest.mark.parametrize("variant", ENCODERS)
@settings(max_examples=8)
@given(order=st.permutations(range(PARTS)))
def test_positions_come_with_the_embeddings_alone(variant: str, order: list[int]) -> None:
    network = encoder(variant)
    energies = network.encode(X, FREE)(CANDIDATE, 1)
    moved = network.encode(X[:, order], FREE[:, order])(CANDIDATE[:, order], 1)
    torch.testing.assert_close(moved, energies[:, order])


@pytest.mark.parametrize("variant", ENCODERS)
def test_the_step_matters_where_it_is_conditioned(variant: str) -> None:
    landscape = encoder(variant).encode(X)
    first, second, third = (landscape(CANDIDATE, step) for step in range(3))
    assert torch.equal(second, third)
    assert torch.equal(first, second) == (conditioning(variant) == "none")


@pytest.mark.parametrize("free", [None, FREE])
@pytest.mark.parametrize("variant", ENCODERS)
def test_selected_rows_have_the_same_energies(variant: str, free: torch.Tensor | None) -> None:
    landscape, candidates = encoder(variant).encode(X, free), normal(3 * ROWS, PARTS, WIDTH, seed=3)
    energies, rows = landscape(candidates, 1), torch.tensor([0, 3, 5])
    part = landscape.select(rows)
    torch.testing.assert_close(part(candidates[rows], 1), energies[rows])
    torch.testing.assert_close(part.select(torch.tensor([2]))(candidates[[5]], 1), energies[[5]])


def test_without_conditioning_the_energy_is_a_transformer_with_a_norm_and_a_head() -> None:
    network = encoder()
    twin = Transformer(network.config)
    twin.blocks.load_state_dict(network.blocks.state_dict())
    twin.norm.load_state_dict(network.head.norm.state_dict())
    expected = network.head.projection(twin(X + CANDIDATE)).squeeze(-1)
    torch.testing.assert_close(network.encode(X)(CANDIDATE, 0), expected)


def test_attention_is_that_of_torch() -> None:
    """The twice differentiable attention against ``scaled_dot_product_attention``, through a whole block."""
    stack = Transformer(NetworkConfig(layers=1, dim=WIDTH, heads=2))
    block = next(iter(stack.blocks))
    q, k, v = block.project(X, None)
    expected = block.finish(X, torch.nn.functional.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(stack(X), stack.norm(expected))
