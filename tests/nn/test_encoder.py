from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from toys import ENCODERS, WIDTH, assert_slopes, conditioning, make_network, normal

from ebt.nn import EBTEncoder, NetworkConfig, Transformer
from ebt.nn.blocks import Groups
from ebt.nn.second_order import attend

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


GROUPS = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]])


def related(head: str = "linear", layers: int = 2) -> EBTEncoder:
    config = NetworkConfig(layers=layers, dim=WIDTH, heads=2, head=head)  # type: ignore[arg-type]
    network = EBTEncoder(config, relations=Groups(config, GROUPS))
    torch.nn.init.normal_(network.head.projection.weight)
    return network


def test_relations_change_nothing_at_first_and_are_a_mask_of_attention_then() -> None:
    network = related(layers=1)
    twin = EBTEncoder(network.config)
    twin.load_state_dict(network.state_dict(), strict=False)
    torch.testing.assert_close(network.encode(X)(CANDIDATE, 0), twin.encode(X)(CANDIDATE, 0))
    assert network.relations is not None
    torch.nn.init.normal_(network.relations.weight)
    block, same = next(iter(network.blocks)), GROUPS.unsqueeze(-1) == GROUPS.unsqueeze(-2)
    bias = sum(network.relations.weight[0, :, r, None, None] * WIDTH**0.5 * same[r] for r in range(2))
    (expected,) = block(X + CANDIDATE, lambda q, k, v: (scaled_dot_product_attention(q, k, v, attn_mask=bias),))
    torch.testing.assert_close(network.hidden(X, CANDIDATE), expected)


def test_a_token_in_front_is_related_to_nothing() -> None:
    config = NetworkConfig(layers=1, dim=WIDTH, heads=2, conditioning="prefix", conditioned_steps=2)
    network = EBTEncoder(config, relations=Groups(config, GROUPS))
    assert network.relations is not None
    assert network.steps is not None
    torch.nn.init.normal_(network.relations.weight)
    block, (bias,) = next(iter(network.blocks)), network.relations(PARTS)
    mask = torch.zeros(2, PARTS + 1, PARTS + 1)
    mask[:, 1:, 1:] = bias
    x = torch.cat((network.steps(1).expand(ROWS, 1, -1), X + CANDIDATE), 1)
    (expected,) = block(x, lambda q, k, v: (scaled_dot_product_attention(q, k, v, attn_mask=mask),))
    torch.testing.assert_close(network.hidden(X, CANDIDATE, 1), expected[:, 1:])


def test_relations_learn_through_thinking() -> None:
    network = related()
    relations = network.relations
    assert relations is not None

    def loss() -> torch.Tensor:
        view = CANDIDATE.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network.encode(X, FREE)(view, 0).sum(), view, create_graph=True)
        return gradient.square().sum()

    loss().backward()
    assert_slopes(loss, [("relations", relations.weight)])


@pytest.mark.parametrize("head", ["bilinear", "quadratic"])
def test_unseen_candidates_are_judged_by_the_twin_of_the_network(head: str) -> None:
    network = related(head)
    landscape, candidate = network.encode(X, FREE).unseen(), CANDIDATE.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(landscape(candidate, 0).sum(), candidate)
    twin = Transformer(network.config, Groups(network.config, GROUPS))
    twin.load_state_dict(network.state_dict(), strict=False)
    if network.head.norm is not None:
        twin.norm.load_state_dict(network.head.norm.state_dict())
    hidden = twin(X) if head == "bilinear" else twin.hidden(X)
    expected = -hidden * network.head.projection.weight * network.head.scale * FREE.unsqueeze(-1)
    torch.testing.assert_close(gradient, expected)
    rows = torch.tensor([1])
    torch.testing.assert_close(landscape.select(rows)(CANDIDATE[rows], 0), landscape(CANDIDATE, 0)[rows])


def test_a_linear_head_cannot_judge_what_is_not_seen() -> None:
    with pytest.raises(ValueError, match="choose head bilinear"):
        related().encode(X).unseen()


def test_attention_is_that_of_torch() -> None:
    """``scaled_dot_product_attention`` against the twice differentiable attention, through a whole block."""
    stack = Transformer(NetworkConfig(layers=1, dim=WIDTH, heads=2))
    block = next(iter(stack.blocks))
    (expected,) = block(X, lambda q, k, v: (attend(q, k, v),))
    torch.testing.assert_close(stack(X), stack.norm(expected))
