"""The energy of a pretrained language model, on tiny random models of several families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    DynamicCache,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from ebt.interop.pretrained import ThinkingLayers
from ebt.thinking import Recipe, Restart, Thought, descend, supervise

SMALL = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, head_dim=4, sliding_window=4),
    "qwen2": Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=3, max_window_layers=2),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gemma": GemmaConfig(**SMALL, head_dim=4),
    "gemma3": Gemma3TextConfig(
        **SMALL, head_dim=4, sliding_window=3, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
}
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])


def language_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).double().eval()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return language_model(FAMILIES[request.param])


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 37, (2, 8), generator=torch.Generator().manual_seed(1))


def moved(network: ThinkingLayers) -> ThinkingLayers:
    """The same network after an arbitrary training."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return network


def thought(network: ThinkingLayers, ids: Tensor, mask: Tensor | None = None, copies: int = 1, **context: object) -> Thought:
    landscape = network.encode(ids, mask, **context)
    start = landscape.start.repeat(copies, 1, 1)
    return descend(landscape, start, steps=3, step_size=1.0, geometry=network.geometry(), update=Restart())


@pytest.mark.parametrize("layers", [None, 1, 2])
@pytest.mark.parametrize("mask", [None, PADDED])
def test_before_training_every_step_is_the_language_model(
    model: PreTrainedModel, ids: Tensor, layers: int | None, mask: Tensor | None
) -> None:
    network = ThinkingLayers(model, layers)
    path = network.geometry().logits(thought(network, ids, mask).path)
    observed = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    places = None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)
    expected = model(ids, attention_mask=mask, position_ids=places).logits
    assert len(path) == 4
    torch.testing.assert_close(path[:, observed], expected[observed].expand(4, -1, -1), atol=1e-5, rtol=1e-5)


def test_candidates_see_no_later_token(model: PreTrainedModel, ids: Tensor) -> None:
    network, later = moved(ThinkingLayers(model, 2)), ids.clone()
    later[:, 5:] = later[:, 5:].flip(1) % 30 + 3
    here, there = thought(network, ids).state, thought(network, later).state
    torch.testing.assert_close(here[:, :5], there[:, :5], atol=1e-5, rtol=1e-5)
    assert (here[:, 5:] - there[:, 5:]).abs().amax() > 1e-3
    assert (here - network.encode(ids).start).abs().amax() > 1e-3


def test_cache_padding_and_copies_change_nothing(model: PreTrainedModel, ids: Tensor) -> None:
    network, cache = moved(ThinkingLayers(model, 2)), DynamicCache()
    whole = thought(network, ids).state
    network.encode(ids[:, :5], cache=cache)
    torch.testing.assert_close(thought(network, ids[:, 5:], cache=cache).state, whole[:, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        thought(network, ids, predictions=2, copies=2).state, whole[:, -2:].repeat(2, 1, 1), atol=1e-5, rtol=1e-5
    )
    padded = torch.cat((torch.zeros(2, 3, dtype=ids.dtype), ids), 1)
    mask = (torch.arange(11) >= 3).long().expand(2, -1)
    torch.testing.assert_close(thought(network, padded, mask).state[:, 3:], whole, atol=1e-5, rtol=1e-5)


def test_central_differences_by_fused_attention_train_alike(model: PreTrainedModel, ids: Tensor) -> None:
    gradients = []
    for attention, recipe in (("eager", Recipe.s1(2)), ("sdpa", Recipe.s1(2, second_order="central", nudge=5e-3))):
        network = moved(ThinkingLayers(model, 2, attention)).train()
        landscape = network.encode(ids[:, :-1])
        found = supervise(landscape, network.geometry(), Restart(), landscape.start, ids[:, 1:], 1.0, recipe)
        found.loss.backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]))
    exact, central = gradients
    assert (exact - central).norm() < 1e-3 * exact.norm()


def test_training_lowers_the_loss_and_leaves_the_language_model_alone(ids: Tensor) -> None:
    model = language_model(FAMILIES["llama"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = ThinkingLayers(model, 2).train()
    optimiser, losses = torch.optim.AdamW(network.parameters(), 1e-2), []
    for _ in range(8):
        landscape = network.encode(ids[:, :-1])
        found = supervise(landscape, network.geometry(), Restart(), landscape.start, ids[:, 1:], 1.0, Recipe.s1(2))
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
        losses.append(found.losses[-1].item())
    assert losses[-1] < losses[0] - 0.2
    assert network.inject.weight.abs().amax() > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not any("embed" in name for name in network.state_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9), "rotary"),
        (BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, vocab_size=9, is_decoder=True), "rotary"),
        (Gemma2Config(**SMALL, head_dim=4), "caps"),
    ],
)
def test_other_models_are_refused(config: PreTrainedConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThinkingLayers(AutoModelForCausalLM.from_config(config))


def test_weights_in_integers_are_refused() -> None:
    model = language_model(FAMILIES["llama"])
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(24, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised"):
        ThinkingLayers(model, 1)


def test_bad_arguments_are_refused(ids: Tensor) -> None:
    model = language_model(FAMILIES["mistral"])
    with pytest.raises(ValueError, match="layers is 4: choose between 1 and 3"):
        ThinkingLayers(model, 4)
    with pytest.raises(ValueError, match="predictions is 9: choose between 1 and 8"):
        ThinkingLayers(model, 1).encode(ids, predictions=9)
    with pytest.raises(ValueError, match="keeps a window"):
        ThinkingLayers(model, 1).encode(ids, cache=DynamicCache(config=model.config))
