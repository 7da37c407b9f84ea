from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from toys import DECODERS, WIDTH, conditioning, make_network, make_simplex, make_table, normal, seeded
from transformers import DynamicCache

from ebt.nn import Anchor, CausalTransformer, Conditioning, EBTDecoder, NetworkConfig

pytestmark = pytest.mark.usefixtures("float64")

ROWS, LENGTH = 2, 5
PER_STEP = ("prefix", "modulation")  # conditionings whose context depends on the step


def decoder(variant: str = "plain") -> EBTDecoder:
    network = make_network("decoder", variant, layers=2)
    assert isinstance(network, EBTDecoder)
    return network


def causal_transformer() -> CausalTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CausalTransformer(NetworkConfig(layers=2, dim=WIDTH, heads=2))


def context(rows: int = ROWS, length: int = LENGTH, seed: int = 1) -> Tensor:
    return normal(rows, length, WIDTH, seed=seed)


def thoughts(network: EBTDecoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies and final states of a descent."""
    space = make_simplex("compact-restart", make_table())
    start = space.start((ROWS, LENGTH), source=seeded(0))
    thought = space.descend(network.encode(x), start, 1.0, 3)
    return thought.energies, thought.state


@pytest.mark.parametrize("variant", DECODERS)
def test_the_future_changes_no_earlier_thought(variant: str) -> None:
    network, x = decoder(variant), context()
    energies, state = thoughts(network, x)
    for changed in range(1, LENGTH):
        other = x.clone()
        other[:, changed] = 10.0
        other_energies, other_state = thoughts(network, other)
        torch.testing.assert_close(other_energies[..., :changed], energies[..., :changed], rtol=0, atol=1e-13)
        torch.testing.assert_close(other_state[:, :changed], state[:, :changed], rtol=0, atol=1e-13)
        assert ((other_energies - energies).abs()[..., changed:] > 1e-6).all()


@pytest.mark.parametrize("variant", DECODERS)
def test_prediction_i_sees_the_tokens_to_i_and_its_own_candidate_only(variant: str) -> None:
    """Prediction i stands for token i + 1, so this also says that no target leaks."""
    network = decoder(variant)
    x, candidate = context().requires_grad_(), normal(ROWS, LENGTH, WIDTH, seed=2).requires_grad_()
    energies = network.encode(x)(candidate, 1)
    for i in range(LENGTH):
        to_x, to_candidate = torch.autograd.grad(energies[0, i], (x, candidate), retain_graph=True)
        seen_x, seen_candidate = (gradient.abs().amax(-1) > 0 for gradient in (to_x, to_candidate))
        assert seen_x.tolist() == [[j <= i for j in range(LENGTH)], [False] * LENGTH]
        assert seen_candidate.tolist() == [[j == i for j in range(LENGTH)], [False] * LENGTH]


def test_another_candidate_leaves_an_energy_as_it_is() -> None:
    landscape, candidate = decoder().encode(context()), normal(ROWS, LENGTH, WIDTH, seed=2)
    for j in range(LENGTH):
        other = candidate.clone()
        other[:, j] += 1
        same = landscape(other, 0) == landscape(candidate, 0)
        assert same.tolist() == [[i != j for i in range(LENGTH)]] * ROWS


@pytest.mark.parametrize("variant", ["plain", "candidate", "prefix"])
def test_prediction_and_observation_share_the_network(variant: str) -> None:
    """A candidate that equals the next token is seen as that token would be: after one layer, at the same position."""
    network = make_network("decoder", variant, layers=1)
    x = context()
    candidate = x[:, 1:]
    step = network.steps(0) if network.steps is not None else torch.zeros(WIDTH)
    whole, start = x, 0
    if conditioning(variant) == "candidate":
        candidate = candidate - step
    if conditioning(variant) == "prefix":
        whole, start = torch.cat((step.expand(ROWS, 1, WIDTH), x), 1), 1
    # the observed stream, in the plainest way: one token at a time looks at those before it
    stack = CausalTransformer(network.config)
    stack.blocks.load_state_dict(network.blocks.state_dict())
    stack.norm.load_state_dict(network.head.norm.state_dict())
    expected = network.head.projection(stack(whole)).squeeze(-1)[:, start + 1 :]
    torch.testing.assert_close(network.encode(x[:, :-1])(candidate, 0), expected)


@pytest.mark.parametrize("anchor", ["token", "hidden"])
def test_an_anchor_is_added_to_the_candidate(anchor: Anchor) -> None:
    plain, x, candidate = decoder(), context(), normal(ROWS, LENGTH, WIDTH, seed=2)
    anchored = EBTDecoder(replace(plain.config, anchor=anchor))
    anchored.load_state_dict(plain.state_dict())
    stack = CausalTransformer(plain.config)
    stack.blocks.load_state_dict(plain.blocks.state_dict())
    base = x if anchor == "token" else stack(x)
    torch.testing.assert_close(anchored.encode(x)(candidate, 0), plain.encode(x)(candidate + base, 0))


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_the_bilinear_head_measures_agreement_with_the_candidate(kind: str) -> None:
    """``E = -w . (n * e) sqrt(D) / alpha0``: for one fixed candidate e, a linear head with the weights ``-w * e sqrt(D)``."""
    bilinear, linear = (make_network(kind, variant, alpha0=3.0) for variant in ("bilinear", "plain"))
    x, candidate = context(1, 1), normal(1, 1, WIDTH, seed=2)
    linear.load_state_dict(bilinear.state_dict())
    linear.head.projection.weight.data = -bilinear.head.projection.weight.data * candidate[0] * WIDTH**0.5
    torch.testing.assert_close(bilinear.encode(x)(candidate, 0), linear.encode(x)(candidate, 0))
    assert linear.encode(x)(candidate, 0).abs() > 1e-3


@pytest.mark.parametrize("variant", DECODERS)
def test_unseen_candidates_have_a_slope_that_does_not_depend_on_them(variant: str) -> None:
    """Where the head is a product with them; a linear one cannot judge them."""
    network, landscape = decoder(variant), decoder(variant).encode(context())
    if not network.head.bilinear:
        with pytest.raises(ValueError, match="choose head bilinear"):
            landscape.unseen()
        return
    slopes = []
    for seed in (2, 3):
        candidate = normal(ROWS, LENGTH, WIDTH, seed=seed).requires_grad_()
        (slope,) = torch.autograd.grad(landscape.unseen()(candidate, 0).sum(), candidate)
        slopes.append(slope)
    torch.testing.assert_close(slopes[0], slopes[1])
    zero = torch.zeros(ROWS, LENGTH, WIDTH, requires_grad=True)
    (seen,) = torch.autograd.grad(landscape(zero, 0).sum(), zero)
    torch.testing.assert_close(slopes[0], seen)  # a candidate of nothing is as good as none


@pytest.mark.parametrize("variant", DECODERS)
def test_the_step_matters_where_it_is_conditioned(variant: str) -> None:
    landscape, candidate = decoder(variant).encode(context()), normal(ROWS, LENGTH, WIDTH, seed=2)
    first, second, third = (landscape(candidate, step) for step in range(3))
    assert torch.equal(second, third)  # two steps are told apart; later ones count as the last
    assert torch.equal(first, second) == (conditioning(variant) == "none")


@pytest.mark.parametrize("variant", DECODERS)
@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, LENGTH - 1)), predictions=st.integers(1, LENGTH))
def test_cached_pieces_equal_the_whole(variant: str, cuts: set[int], predictions: int) -> None:
    network, x, candidate = decoder(variant), context(), normal(ROWS, LENGTH, WIDTH, seed=2)
    whole = network.encode(x)(candidate, 1)
    cache = DynamicCache()
    bounds = [0, *sorted(cuts), LENGTH]
    for begin, end in pairwise(bounds):
        count = min(predictions, end - begin)
        landscape = network.encode(x[:, begin:end], cache=cache, predictions=count)
        torch.testing.assert_close(landscape(candidate[:, end - count : end], 1), whole[:, end - count : end])
    assert cache.get_seq_length() == LENGTH


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, LENGTH - 1)))
def test_cached_pieces_equal_the_whole_in_the_causal_transformer(cuts: set[int]) -> None:
    network, x, cache = causal_transformer(), context(), DynamicCache()
    bounds = [0, *sorted(cuts), LENGTH]
    pieces = [network(x[:, begin:end], cache=cache) for begin, end in pairwise(bounds)]
    torch.testing.assert_close(torch.cat(pieces, 1), network(x))


def test_a_cache_takes_in_every_token_at_every_step() -> None:
    """Also at steps that a short descent does not reach: the next descent may be longer."""
    network, x, candidate = decoder("prefix"), context(), normal(ROWS, LENGTH, WIDTH, seed=2)
    cache = DynamicCache()
    network.encode(x[:, :3], cache=cache)(candidate[:, :3], 0)
    torch.testing.assert_close(
        network.encode(x[:, 3:], cache=cache)(candidate[:, 3:], 1), network.encode(x)(candidate, 1)[:, 3:]
    )
    assert len(cache.layers) == 2 * network.config.layers


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Left-padded rows with rubbish as padding, and their mask."""
    longest = max(map(len, rows))
    x = torch.stack([torch.cat((normal(longest - len(row), WIDTH, seed=9, std=5), row)) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return x, mask


@pytest.mark.parametrize("variant", DECODERS)
@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, LENGTH), min_size=2, max_size=3), boolean=st.booleans())
def test_left_padding_changes_nothing(variant: str, lengths: list[int], boolean: bool) -> None:
    network = decoder(variant)
    rows = [context(1, length, seed=i)[0] for i, length in enumerate(lengths)]
    x, mask = padded(rows)
    candidate = normal(len(rows), x.shape[1], WIDTH, seed=3)
    energies = network.encode(x, mask.bool() if boolean else mask)(candidate, 1)
    for i, row in enumerate(rows):
        alone = network.encode(row.unsqueeze(0))(candidate[i : i + 1, -len(row) :], 1)
        torch.testing.assert_close(energies[i, -len(row) :], alone[0])
    assert torch.isfinite(energies).all()


@settings(max_examples=8)
@given(lengths=st.lists(st.integers(1, LENGTH), min_size=2, max_size=3))
def test_left_padding_changes_nothing_in_the_causal_transformer(lengths: list[int]) -> None:
    network = causal_transformer()
    rows = [context(1, length, seed=i)[0] for i, length in enumerate(lengths)]
    x, mask = padded(rows)
    hidden = network(x, mask)
    for i, row in enumerate(rows):
        torch.testing.assert_close(hidden[i, -len(row) :], network(row.unsqueeze(0))[0])


@pytest.mark.parametrize("variant", DECODERS)
def test_left_padding_and_cache_together(variant: str) -> None:
    network = decoder(variant)
    x, mask = padded([context(1, 3)[0], context(1, LENGTH)[0]])
    candidate = normal(2, LENGTH, WIDTH, seed=3)
    whole = network.encode(x, mask)(candidate, 0)
    transformer = causal_transformer()
    hidden = transformer(x, mask)
    cache, other_cache = DynamicCache(), DynamicCache()
    for end in (3, 4, 5):
        begin = 0 if end == 3 else end - 1
        landscape = network.encode(x[:, begin:end], mask[:, :end], cache, predictions=1)
        torch.testing.assert_close(landscape(candidate[:, end - 1 : end], 0), whole[:, end - 1 : end])
        piece = transformer(x[:, begin:end], mask[:, :end], other_cache)
        torch.testing.assert_close(piece[:, -1], hidden[:, end - 1])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", DECODERS)
def test_the_last_predictions_are_those_of_all(variant: str, masked: bool) -> None:
    network, candidate = decoder(variant), normal(ROWS, LENGTH, WIDTH, seed=2)
    x, mask = padded([context(1, 3)[0], context(1, LENGTH)[0]]) if masked else (context(), None)
    whole = network.encode(x, mask)(candidate, 1)
    for count in range(1, LENGTH + 1):
        last = network.encode(x, mask, predictions=count)(candidate[:, -count:], 1)
        torch.testing.assert_close(last, whole[:, -count:])


@pytest.mark.parametrize("count", [0, LENGTH + 1, -1])
def test_predictions_must_be_positions(count: int) -> None:
    with pytest.raises(ValueError, match=f"predictions is {count}"):
        decoder().encode(context(), predictions=count)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", DECODERS)
def test_selected_rows_have_the_same_energies(variant: str, masked: bool) -> None:
    network, candidates = decoder(variant), normal(3 * ROWS, LENGTH, WIDTH, seed=2)
    x, mask = padded([context(1, 3)[0], context(1, LENGTH)[0]]) if masked else (context(), None)
    landscape = network.encode(x, mask)
    energies = landscape(candidates, 0)
    rows = torch.tensor([0, 3, 5])
    part = landscape.select(rows)
    torch.testing.assert_close(part(candidates[rows], 0), energies[rows])
    torch.testing.assert_close(part(candidates[rows], 1), landscape(candidates, 1)[rows])  # a step not met before selecting
    again = part.select(torch.tensor([2]))
    torch.testing.assert_close(again(candidates[[5]], 0), energies[[5]])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", DECODERS)
def test_selected_predictions_have_the_same_energies_and_gradients(variant: str, masked: bool) -> None:
    network, candidates = decoder(variant), normal(3 * ROWS, LENGTH, WIDTH, seed=2).requires_grad_()
    x, mask = padded([context(1, 3)[0], context(1, LENGTH)[0]]) if masked else (context(), None)
    landscape = network.encode(x, mask)
    rows, positions = torch.tensor([0, 3, 3, 5]), torch.tensor([1, 0, LENGTH - 1, 2])
    part = landscape.select(rows, positions)
    few = candidates[rows, positions].unsqueeze(1).detach().requires_grad_()
    for step in (0, 1):
        energies, found = landscape(candidates, step), part(few, step)
        torch.testing.assert_close(found, energies[rows, positions].unsqueeze(1))
        (whole,) = torch.autograd.grad(energies.sum(), candidates)
        (own,) = torch.autograd.grad(found.sum(), few)
        torch.testing.assert_close(own.squeeze(1), whole[rows, positions])


@pytest.mark.parametrize("variant", DECODERS)
def test_the_context_is_encoded_once_for_all_steps_that_share_it_and_without_a_graph_at_inference(variant: str) -> None:
    network, space = decoder(variant), make_simplex("compact-restart", make_table())
    passes: list[tuple[int, bool]] = []  # rows of each pass through the network, and whether it left a graph
    first = network.get_submodule("blocks.0.attention.key")
    first.register_forward_hook(lambda module, inputs, output: passes.append((len(output), output.requires_grad)))
    with torch.no_grad():
        space.descend(network.encode(context()), space.start((3 * ROWS, LENGTH)), 1.0, 4)
    contexts = 2 if conditioning(variant) in PER_STEP else 1  # two steps are told apart
    tokens = 2 if conditioning(variant) == "prefix" else 0  # each in front of all rows
    assert sorted(passes) == [(1, False)] * tokens + [(ROWS, False)] * contexts + [(3 * ROWS, True)] * 4


@pytest.mark.parametrize("conditioning", ["none", *PER_STEP])
def test_the_last_block_of_a_context_computes_only_what_is_read(conditioning: Conditioning) -> None:
    """Candidates read its keys and values. Its output is for anchors, and for those who ask for hidden states."""

    def encoded(anchor: Anchor, states: bool) -> tuple[int, Tensor]:
        config = NetworkConfig(layers=1, dim=WIDTH, heads=2, anchor=anchor, conditioning=conditioning, conditioned_steps=2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = EBTDecoder(config)
        cache = DynamicCache()
        with FlopCounterMode(display=False) as counter:
            network.encode(context(), cache=cache, states=states)
        return counter.get_total_flops(), torch.stack([part for layer in cache.layers for part in (layer.keys, layer.values)])

    read, expected = encoded("none", states=True)
    for anchor in ("none", "token"):
        operations, found = encoded(anchor, states=False)
        assert operations < 0.5 * read
        assert torch.equal(found, expected)
    assert encoded("hidden", states=False)[0] == read
