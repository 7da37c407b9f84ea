"""Names of weights: those of the published code beside ours, for weights one way and for gradients the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebt.errors import InputError

ALPHA = "alpha"
NOISE_STD = "langevin_dynamics_noise_std"
MIN_ALPHA = 1e-4
"""The published code thinks with at least this step size."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.T


def _step_size(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor)  # the model's initial step size is the trained one: see alpha()


@dataclass(frozen=True)
class Weight:
    """One weight under both names, and what turns theirs into ours (a transposition also turns gradients back)."""

    theirs: str
    ours: str
    turn: Callable[[Tensor], Tensor] = _same


_BLOCK = {
    "attention.wq.weight": "attention.query.weight",
    "attention.wk.weight": "attention.key.weight",
    "attention.wv.weight": "attention.value.weight",
    "attention.wo.weight": "attention.output.weight",
    "attention_norm.weight": "attention_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "feed_forward.w1.weight": "gate.weight",
    "feed_forward.w3.weight": "up.weight",
    "feed_forward.w2.weight": "down.weight",
}
_MODULATION = {
    "adaLN_modulation.1.weight": "modulation.projection.weight",
    "adaLN_modulation.1.bias": "modulation.projection.bias",
}


def _stack(layers: int, modulated: bool) -> list[Weight]:
    names = {**_BLOCK, **(_MODULATION if modulated else {})}
    return [
        Weight(f"transformer.layers.{i}.{theirs}", f"network.blocks.{i}.{ours}")
        for i in range(layers)
        for theirs, ours in names.items()
    ]


def decoder_weights(layers: int, conditioning: str) -> list[Weight]:
    """An autoregressive EBT without what is before its blocks."""
    modulated = conditioning == "modulation"
    weights = [*_stack(layers, modulated), Weight("transformer.norm.weight", "network.head.norm.norm.weight")]
    final = "transformer.final_layer"
    weights.append(Weight(f"{final}.linear.weight" if modulated else f"{final}.weight", "network.head.projection.weight"))
    if modulated:
        weights += [Weight(f"{final}.{theirs}", f"network.head.norm.{ours}") for theirs, ours in _MODULATION.items()]
    if conditioning != "none":
        weights.append(Weight("transformer.time_embeddings.weight", "network.steps.vectors.weight"))
    return [*weights, Weight(ALPHA, "step_size.log_scale", _step_size)]


def transformer_weights(layers: int) -> list[Weight]:
    """Transformer++ without what is before its blocks."""
    return [
        *_stack(layers, modulated=False),
        Weight("transformer.norm.weight", "network.norm.norm.weight"),
        Weight("output.weight", "head.weight"),
    ]


def words(tied: bool) -> list[Weight]:
    """The tables of a text EBT."""
    own = [] if tied else [Weight("vocab_to_embed.weight", "words.weight", _transposed)]
    return [Weight("embeddings.weight", "embedding.weight"), *own]


def projection() -> list[Weight]:
    """The map from an encoder's vectors to a video model's."""
    return [Weight(f"encoder_down_projection.{name}", f"projection.{name}") for name in ("weight", "bias")]


def alpha(state: Mapping[str, Tensor]) -> float:
    """The trained step size."""
    return max(number(state, ALPHA), MIN_ALPHA)


def number(state: Mapping[str, Tensor], name: str) -> float:
    """A number that the checkpoint's weights hold.

    Raises:
        InputError: it is missing.
    """
    if name not in state:
        raise InputError(f"the weight {name} is missing: give a complete checkpoint of this model")
    return float(state[name])


def count_layers(state: Mapping[str, Tensor]) -> int:
    """Blocks of an autoregressive model, by its weights' names."""
    found = {int(match[1]) for name in state if (match := re.match(r"transformer\.layers\.(\d+)\.", name))}
    return len(found)


def load(model: nn.Module, state: Mapping[str, Tensor], weights: Iterable[Weight], unused: Iterable[str] = ()) -> None:
    """Give a model the published code's weights, in their own precision.

    Args:
        model: with meta or real tensors.
        state: their names and values.
        weights: all that the model has.
        unused: names that may be there and are not needed.

    Raises:
        InputError: naming a weight that is missing, unknown, or of another shape than the hyper-parameters ask for.
    """
    own, ours = model.state_dict(), dict[str, Tensor]()
    weights = list(weights)
    known = {weight.theirs for weight in weights} | set(unused)
    if foreign := [name for name in state if name not in known]:
        raise InputError(f"the weight {foreign[0]} is not understood: convert a checkpoint of the published code, unchanged")
    for weight in weights:
        if weight.theirs not in state:
            raise InputError(f"the weight {weight.theirs} is missing: give a complete checkpoint of this model")
        value = weight.turn(state[weight.theirs])
        if value.shape != own[weight.ours].shape:
            raise InputError(
                f"the weight {weight.theirs} has the shape {tuple(state[weight.theirs].shape)}, but the hyper-parameters ask "
                f"for {tuple(weight.turn(own[weight.ours]).shape)}: give the checkpoint's own hyper-parameters"
            )
        ours[weight.ours] = value.contiguous()
    model.load_state_dict(ours, assign=True)


def gradients(model: nn.Module, weights: Iterable[Weight]) -> dict[str, Tensor]:
    """Gradients under the published code's names; zero where nothing depends on a weight."""
    parameters, found = dict(model.named_parameters()), dict[str, Tensor]()
    for weight in weights:
        parameter = parameters[weight.ours]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if weight.turn is _step_size:
            gradient = gradient / model.step_size.initial  # type: ignore[union-attr, operator]
        elif weight.turn is _transposed:
            gradient = gradient.T
        found[weight.theirs] = gradient
    return found
