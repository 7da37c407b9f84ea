"""The energy of a pretrained language model: its own layers run the candidates, over its own cache.

With the last hidden state ``h`` at a position and the table ``W``, a language model predicts the logits ``W h``. The energy

    E(e) = -<e, F(e)>

has ``F(e) = h`` at first, whatever the candidate ``e``. Then each step ``u' = -dE/de`` (``Restart``, step size 1) returns h:
before training, the answer is that of the language model after every number of steps. F is a copy of the model's last layers.
It sees, at position i, the hidden state of the language model with a linear map of the candidate added (zero at first), and
the keys and values of the positions before i. Observed positions see no candidates, so nothing leaks from later tokens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from ebt.thinking.fast.compact import CompactSimplex

Layers = dict[int, tuple[Tensor, Tensor]]
"""Keys and values (B, H, K, d) of the context, by the index of their layer."""
Attention = Literal["eager", "sdpa"]


class ThinkingLayers(nn.Module):
    """The last layers of a causal language model of ``transformers``, which give energies to candidates for its next tokens.

    The language model is not changed, and its weights get no gradients. Train the weights of this module, or adapt ``body``
    with PEFT. See ``PretrainedLandscape`` for how to think.

    Args:
        model: The language model, with rotary positions and without a soft cap on its logits.
        layers: Number of last layers that see the candidates. Default: all.
        attention: Implementation of the candidates' attention. ``eager`` can be differentiated twice; ``sdpa`` and other fused
            ones need central differences (``Recipe.second_order``) and serve inference.

    Raises:
        ValueError: If the model cannot be differentiated, has no such layers, or computes its logits in another way.
    """

    def __init__(self, model: PreTrainedModel, layers: int | None = None, attention: Attention = "eager") -> None:
        super().__init__()
        table, depth = _checked(model)
        layers = depth if layers is None else layers
        if not 1 <= layers <= depth:
            raise ValueError(f"layers is {layers}: choose between 1 and {depth}, the number of layers of the model")
        self.first = depth - layers
        self.body = _last(model.base_model, layers, attention)
        self.inject = nn.Linear(table.shape[1], table.shape[1], bias=False, device=table.device, dtype=table.dtype)
        nn.init.zeros_(self.inject.weight)
        self.unit = float(table.detach().float().square().mean().sqrt())
        self.__dict__["model"] = model  # not a part: its weights are stored with the language model

    def train(self, mode: bool = True) -> Self:
        """Sets the mode. ``body`` stays in evaluation mode, since dropout would change the energy from step to step."""
        super().train(mode)
        self.body.eval()
        return self

    def encode(
        self, ids: Tensor, mask: Tensor | None = None, cache: DynamicCache | None = None, predictions: int | None = None
    ) -> PretrainedLandscape:
        """Bind the energy to a context.

        Args:
            ids: Tokens (B, S).
            mask: Mask (B, K), 0 at padding. K includes cached tokens.
            cache: Keys and values of earlier tokens, to append to: a ``DynamicCache()`` that keeps all positions.
            predictions: Number of last positions that predict. Default: all S.

        Raises:
            ValueError: If ``predictions`` is not between 1 and S, or the cache has lost positions.
        """
        model, length = self.__dict__["model"], ids.shape[1]
        predictions = length if predictions is None else predictions
        if not 1 <= predictions <= length:
            raise ValueError(f"predictions is {predictions}: choose between 1 and {length}, the number of positions")
        cache = DynamicCache() if cache is None else cache
        seen = cache.get_seq_length() + length
        positions = torch.arange(seen, device=ids.device).expand(len(ids), -1)
        positions = positions if mask is None else (mask.long().cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            found = model.base_model(
                ids, mask, positions[:, -length:], past_key_values=cache, use_cache=True, output_hidden_states=True
            )
        layers = {i: (cache.layers[i].keys, cache.layers[i].values) for i in range(self.first, len(cache.layers))}
        if any(keys.shape[2] != seen for keys, _ in layers.values()):
            raise ValueError("the cache keeps a window of the context only: pass DynamicCache() without a configuration")
        kept = slice(-predictions, None)
        hidden, start, position = found.hidden_states[self.first], found.last_hidden_state, positions[:, kept]
        return PretrainedLandscape(self, hidden[:, kept], start[:, kept], layers, position, mask)

    def geometry(self) -> CompactSimplex:
        """The vocabulary of the language model, as constants."""
        return CompactSimplex(2, self.__dict__["model"].get_output_embeddings().weight.detach())


@dataclass(frozen=True, eq=False)
class PretrainedLandscape:
    """The energy of candidates for the next tokens of an encoded context.

    Think with ``descend(landscape, landscape.start, steps=3, step_size=1.0, geometry=network.geometry(), update=Restart())``,
    and train with ``supervise`` likewise. Candidates (M x B, S, D) may be several for each context.
    """

    network: ThinkingLayers
    hidden: Tensor
    """Input of the first layer that thinks, (B, S, D)."""
    start: Tensor
    """The language model's own answer ``h`` (B, S, D): a state of ``CompactSimplex``, the first candidate."""
    layers: Layers
    positions: Tensor
    """Positions (B, S)."""
    mask: Tensor | None = None
    """Mask (B, K) of the observed tokens, 0 at padding."""

    def __call__(self, candidate: Tensor, step: int = 0) -> Tensor:
        """Energies (N, S) of candidates (N, S, D)."""
        return -(candidate * self.answer(candidate)).sum(-1)

    def answer(self, candidate: Tensor) -> Tensor:
        """``F(e)`` (N, S, D)."""
        network, copies = self.network, len(candidate) // len(self.hidden)
        masks = {window: _visible(self, window).repeat(copies, 1, 1, 1) for window in _windows(network.body.config)}
        kinds = {"full_attention": masks.get(None), "sliding_attention": masks.get(_window(network.body.config))}
        found = network.body(
            inputs_embeds=self.hidden.repeat(copies, 1, 1) + network.inject(candidate / network.unit),
            attention_mask=kinds if getattr(network.body.config, "layer_types", None) else next(iter(masks.values())),
            position_ids=self.positions.repeat(copies, 1),
            past_key_values=_Behind(self.layers, copies),
            use_cache=True,
        )
        return found.last_hidden_state

    def once(self) -> PretrainedLandscape:
        """The same energy, which draws no random numbers."""
        return self


class _Behind:
    """A cache that puts keys and values of candidates behind those of the context, and keeps none."""

    def __init__(self, layers: Layers, copies: int) -> None:
        self.layers, self.copies = layers, copies

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        context = (part.repeat(self.copies, 1, 1, 1) for part in self.layers[layer])
        both = tuple(torch.cat(pair, 2) for pair in zip(context, (keys, values), strict=True))
        return both[0], both[1]


def _checked(model: PreTrainedModel) -> tuple[Tensor, int]:
    """The table of a model and the number of its layers."""
    name, body, head = type(model).__name__, model.base_model, model.get_output_embeddings()
    if head is None or not hasattr(body, "layers") or not hasattr(body, "rotary_emb"):
        raise ValueError(f"{name} is no causal language model with rotary positions: give one such as Llama, Qwen or Mistral")
    if not all(part.is_floating_point() for part in (*body.layers.parameters(), *body.layers.buffers())):
        raise ValueError(f"{name} is quantised, and its layers cannot be trained: load it with dtype=torch.float32 or bfloat16")
    if getattr(model.config, "final_logit_softcapping", None) or getattr(head, "bias", None) is not None:
        raise ValueError(f"{name} caps its logits or adds a bias to them, so they are not W h: give another model")
    if getattr(model.config, "logits_scaling", 1) != 1 or getattr(model.config, "logit_scale", 1) not in (1, None):
        raise ValueError(f"{name} scales its logits, so they are not W h: give another model")
    return head.weight, len(body.layers)


def _last(body: PreTrainedModel, layers: int, attention: Attention) -> PreTrainedModel:
    """A copy of a model without an embedding table, with its last layers."""
    known: dict[int, Any] = {id(body.get_input_embeddings()): nn.Identity()}
    known[id(body.layers)] = nn.ModuleList(copy.deepcopy(list(body.layers[-layers:]), known))  # one copy of what both share
    found: PreTrainedModel = copy.deepcopy(body, known)
    config = found.config
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[-layers:]
    found.set_attn_implementation(attention)
    return found.requires_grad_(True)


def _window(config: Any) -> int | None:
    return getattr(config, "sliding_window", None)


def _windows(config: Any) -> set[int | None]:
    """Windows of the layers, None for those that see all."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return {_window(config)}
    return {_window(config) if kind == "sliding_attention" else None for kind in kinds}


def _visible(landscape: PretrainedLandscape, window: int | None) -> Tensor:
    """Mask (B, 1, S, K + S) to add to scores: each candidate sees the positions before its own, and itself."""
    hidden, (keys, _) = landscape.hidden, next(iter(landscape.layers.values()))
    length, observed = hidden.shape[1], keys.shape[2]
    place = torch.arange(observed, device=hidden.device)
    back = place[-length:, None] - place  # distance to each observed position
    seen = (back > 0) if window is None else (back > 0) & (back < window)
    seen = seen.expand(len(hidden), 1, -1, -1)
    seen = seen if landscape.mask is None else seen & landscape.mask.bool()[:, None, None, :]
    own = torch.eye(length, dtype=torch.bool, device=hidden.device).expand(len(hidden), 1, -1, -1)
    both = torch.cat((seen, own), -1)
    return torch.zeros(both.shape, dtype=hidden.dtype, device=hidden.device).masked_fill(~both, torch.finfo(hidden.dtype).min)
