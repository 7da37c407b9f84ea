from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ebt.nn import PAPER, SIZES, CausalTransformer, EBTDecoder, EBTEncoder, NetworkConfig, Transformer, network_config


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"dim": -8}, "dim is -8"),
        ({"heads": 0}, "heads is 0"),
        ({"dim": 12, "heads": 4}, "dim 12 must be a multiple of 2 x heads"),
        ({"ffn_dim": 0}, "ffn_dim is 0"),
        ({"heads": 4, "kv_heads": 3}, "heads 4 must be a multiple of kv_heads"),
        ({"conditioning": "time"}, "conditioning is 'time': choose one of none, candidate, prefix"),
        ({"anchor": "top"}, "anchor is 'top': choose one of none, token, hidden"),
        ({"head": "cubic"}, "head is 'cubic': choose one of linear, bilinear"),
        ({"conditioned_steps": 0}, "conditioned_steps is 0"),
    ],
)
def test_contradictions_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        NetworkConfig(**settings)


def test_sizes_are_those_of_the_paper() -> None:
    paper = {
        "xxs": (6, 384, 6),
        "xs": (12, 384, 6),
        "small": (12, 768, 12),
        "medium": (24, 1024, 16),
        "large": (24, 1536, 16),
        "xl": (24, 2048, 32),
    }
    assert paper == PAPER
    assert set(SIZES) == {"nano", "micro", *paper, *(f"llama-{name}" for name in paper)}
    for name, (layers, dim, heads) in SIZES.items():
        config = network_config(name)
        assert (config.layers, config.dim, config.heads) == (layers, dim, heads)
        assert config.hidden == (dim if name in paper else NetworkConfig(dim=dim).hidden)
    assert (network_config("nano").hidden, network_config("micro").hidden) == (176, 352)


@pytest.mark.parametrize(("size", "millions"), [("xxs", 6.2), ("xl", 708), ("llama-xxs", 10.6), ("llama-xl", 1209)])
def test_numbers_of_weights(size: str, millions: float) -> None:
    """Of the paper's sizes, within 1 % of the paper's (table C.2): 7 D^2 a layer; 12 D^2 with the inner width of Llama 2."""
    config = network_config(size)
    with torch.device("meta"):
        for network in (EBTDecoder(config), CausalTransformer(config)):
            assert count(network) / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_size_by_name_with_overrides() -> None:
    config = network_config("xxs", layers=2, conditioning="candidate", heads=None)
    assert config == NetworkConfig(2, 384, 6, ffn_dim=384, conditioning="candidate")
    assert network_config("xxs", dim=96).hidden == 96
    assert network_config("xxs", dim=96, ffn_dim=100).hidden == 100
    assert network_config("xxs", block="dit").hidden == 4 * 384
    with pytest.raises(ValueError, match=r"size is 'huge': choose one of nano, micro, xxs.*, llama-xl"):
        network_config("huge")


@pytest.mark.parametrize(("dim", "hidden"), [(64, 176), (128, 352), (384, 1024), (768, 2048)])
def test_inner_width_is_eight_thirds_rounded_up_to_sixteens(dim: int, hidden: int) -> None:
    assert NetworkConfig(dim=dim).hidden == hidden
    assert NetworkConfig(dim=dim, ffn_dim=100).hidden == 100


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("conditioning", ["none", "candidate", "prefix"])
@pytest.mark.parametrize("size", ["nano", "micro", "xxs", "small"])
def test_feed_forward_twins_are_of_one_size(size: str, conditioning: str) -> None:
    config = network_config(size, conditioning=conditioning, conditioned_steps=3)
    words = 512
    with torch.device("meta"):
        embedding, table = nn.Embedding(words, config.dim), nn.Embedding(words, config.dim)
        head = nn.Linear(config.dim, words, bias=False)
        ours, twin = count(EBTDecoder(config), embedding, table), count(CausalTransformer(config), embedding, head)
        assert ours == pytest.approx(twin, rel=0.02)
        # cells carry a digit and a position; both predict a digit
        assert count(EBTEncoder(config)) == pytest.approx(count(Transformer(config)), rel=0.02)


@pytest.mark.parametrize(("size", "hidden"), [("xxs", 384), ("llama-xxs", 1024)])
def test_the_floor_of_non_embedding_weights(size: str, hidden: int) -> None:
    """4 D^2 of attention and 3 D x hidden of feed-forward a layer, and the norms."""
    with torch.device("meta"):
        weights = count(CausalTransformer(network_config(size)))
    assert weights == 6 * (4 * 384**2 + 3 * 384 * hidden + 2 * 384) + 384
