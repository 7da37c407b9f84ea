"""Mapping between weight names of the published code and of this library, to load weights and report gradients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.video.models import EBTForVideo

Tensors = dict[str, Tensor]

ALPHA = "alpha"
NOISE_STD = "langevin_dynamics_noise_std"
MIN_ALPHA = 1e-4
"""Minimum step size of the published descent."""
_STEP_SIZE = "step_size.log_scale"


@dataclass(frozen=True)
class Weight:
    """A weight under its names in both libraries."""

    theirs: str
    ours: tuple[str, ...]
    """Several names if the published weight is their concatenation."""
    transposed: bool = False
    reshaped: bool = False
    """Whether the shapes differ and only the number of entries agrees."""

    def convert(self, value: Tensor, own: Mapping[str, Tensor]) -> Tensors:
        """Convert a published weight to this library's weights.

        Raises:
            InputError: The shape does not match the model.
        """
        parts = (value.T if self.transposed else value).chunk(len(self.ours))
        if self.reshaped and value.numel() == own[self.ours[0]].numel():
            parts = (value.reshape(own[self.ours[0]].shape),)
        if [part.shape for part in parts] != [own[name].shape for name in self.ours]:
            raise InputError(
                f"the weight {self.theirs} has the shape {tuple(value.shape)}, which does not match the hyper-parameters: give "
                "the hyper-parameters of the checkpoint"
            )
        return dict(zip(self.ours, parts, strict=True))

    def gradient(self, gradients: list[Tensor]) -> Tensor:
        """Convert this library's gradients to the published gradient."""
        gradient = torch.cat(gradients) if len(gradients) > 1 else gradients[0]
        return gradient.T if self.transposed else gradient


def _layer(theirs: str, *ours: str) -> list[Weight]:
    """Return weight and bias of a linear layer."""
    return [Weight(f"{theirs}.{kind}", tuple(f"{name}.{kind}" for name in ours)) for kind in ("weight", "bias")]


def _modulation(theirs: str, ours: str) -> list[Weight]:
    return _layer(f"{theirs}.adaLN_modulation.1", f"{ours}.modulation.projection")


_BLOCK = {
    "attention.wq": "attention.query",
    "attention.wk": "attention.key",
    "attention.wv": "attention.value",
    "attention.wo": "attention.output",
    "attention_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "gate",
    "feed_forward.w3": "up",
    "feed_forward.w2": "down",
}


def _causal_blocks(layers: int, modulated: bool) -> list[Weight]:
    found = []
    for i in range(layers):
        theirs, ours = f"transformer.layers.{i}", f"network.blocks.{i}"
        found += [Weight(f"{theirs}.{one}.weight", (f"{ours}.{other}.weight",)) for one, other in _BLOCK.items()]
        found += _modulation(theirs, ours) if modulated else []
    return found


def _decoder(config: Any) -> list[Weight]:
    """Return the weights of an autoregressive EBT."""
    modulated, final = config.conditioning == "modulation", "transformer.final_layer"
    head = f"{final}.linear.weight" if modulated else f"{final}.weight"
    return [
        *_causal_blocks(config.layers, modulated),
        Weight("transformer.norm.weight", ("network.head.norm.norm.weight",)),
        Weight(head, ("network.head.projection.weight",)),
        *(_modulation(final, "network.head.norm") if modulated else []),
        *([Weight("transformer.time_embeddings.weight", ("network.steps.vectors.weight",))] * (config.conditioning != "none")),
    ]


def _transformer(config: Any) -> list[Weight]:
    """Return the weights of Transformer++, with its output layer."""
    norm, head = Weight("transformer.norm.weight", ("network.norm.norm.weight",)), Weight("output.weight", ("head.weight",))
    return [*_causal_blocks(config.layers, modulated=False), norm, head]


def _encoder(prefix: str, layers: int) -> list[Weight]:
    """Return the weights of patches and blocks of an image network."""
    found = [
        Weight(f"{prefix}.pos_embed", ("patches.positions",), reshaped=True),
        Weight(f"{prefix}.x_embedder.proj.weight", ("patches.projection.weight",), reshaped=True),
        Weight(f"{prefix}.x_embedder.proj.bias", ("patches.projection.bias",)),
    ]
    for i in range(layers):
        theirs, ours = f"{prefix}.blocks.{i}", f"network.blocks.{i}"
        found += _layer(f"{theirs}.attn.qkv", *(f"{ours}.attention.{name}" for name in ("query", "key", "value")))
        found += _layer(f"{theirs}.attn.proj", f"{ours}.attention.output")
        found += _layer(f"{theirs}.mlp.fc1", f"{ours}.up") + _layer(f"{theirs}.mlp.fc2", f"{ours}.down")
        found += _modulation(theirs, ours)
    return found


def weights_of(model: HubModel) -> list[Weight]:
    """Return the names of all weights of a model, without the step size."""
    config: Any = model.config
    if isinstance(model, EBTForImages):
        return [
            *_encoder("transformer", config.layers),
            *_modulation("transformer.final_layer", "network.head.norm"),
            Weight("transformer.final_layer.linear.weight", ("network.head.projection.weight",)),
            Weight("learned_adaln_condition.weight", ("network.steps.vectors.weight",)),
        ]
    if isinstance(model, DiTForImages):
        prefix = "diffusion_transformer"
        levels = [_layer(f"{prefix}.t_embedder.mlp.{i}", f"level.{name}") for i, name in ((0, "first"), (2, "second"))]
        final = _modulation(f"{prefix}.final_layer", "network.norm") + _layer(f"{prefix}.final_layer.linear", "head")
        return [*_encoder(prefix, config.layers), *levels[0], *levels[1], *final]
    if isinstance(model, (EBTForCausalLM, TransformerPPForCausalLM)):
        tables = [Weight("embeddings.weight", ("embedding.weight",))]
        if isinstance(model, EBTForCausalLM) and not config.tied_candidates:
            tables.append(Weight("vocab_to_embed.weight", ("words.weight",), transposed=True))
    else:
        tables = [] if model.projection is None else _layer("encoder_down_projection", "projection")
    thinks = isinstance(model, (EBTForCausalLM, EBTForVideo))
    return tables + (_decoder(config) if thinks else _transformer(config))


def take(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a weight by its published name.

    Raises:
        InputError: The weight is missing.
    """
    if name not in state:
        raise InputError(f"the weight {name} is missing: give a complete checkpoint of this model")
    return state[name]


def alpha(state: Mapping[str, Tensor]) -> float:
    """Return the trained step size."""
    return max(float(take(state, ALPHA)), MIN_ALPHA)


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Return the number of blocks of an autoregressive model, from its weight names."""
    return len({match[1] for name in state if (match := re.match(r"transformer\.layers\.(\d+)\.", name))})


def load(model: HubModel, state: Mapping[str, Tensor]) -> None:
    """Load published weights into a model. Its configuration already contains the trained step size.

    Raises:
        InputError: A weight, which the message names, is missing, unknown, or does not match the hyper-parameters.
    """
    own, ours, names = model.state_dict(), dict[str, Tensor](), weights_of(model)
    known = {weight.theirs for weight in names}
    if _STEP_SIZE in own:
        known |= {ALPHA, NOISE_STD}
        ours[_STEP_SIZE] = torch.zeros_like(own[_STEP_SIZE])
    if foreign := [name for name in state if name not in known]:
        raise InputError(f"the weight {foreign[0]} is unknown: give an unmodified checkpoint of the published code")
    for weight in names:
        ours |= weight.convert(take(state, weight.theirs), own)
    model.load_state_dict(ours)


def gradients(model: Any) -> Tensors:
    """Return the gradients under their published names, zero for unused weights."""
    found = {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in model.named_parameters()}
    theirs = {
        weight.theirs: weight.gradient([found[name] for name in weight.ours])
        for weight in weights_of(model)
        if set(weight.ours) <= set(found)  # position embeddings are fixed in this library
    }
    if _STEP_SIZE in found:
        theirs[ALPHA] = found[_STEP_SIZE] / model.step_size.initial
    return {f"grad.{name}": gradient for name, gradient in theirs.items()}
