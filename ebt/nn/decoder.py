"""Autoregressive networks: the EBT decoder and its feed-forward twin, the causal transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.nn.blocks import (
    Blocks,
    EnergyNetwork,
    Landscape,
    OutputNorm,
    attend_context_and_self,
    for_all_heads,
    initialise,
    rotation,
)
from ebt.nn.causal import attend_causally
from ebt.nn.config import NetworkConfig
from ebt.nn.first_order import attend_once, run_once, written_out
from ebt.thinking.fast.adjoint import Separated


class KeyValueCache(Protocol):
    """Keys and values of earlier positions, with the interface of Hugging Face caches."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, /) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, S, d), and return all of them (B, H, K, d)."""
        ...

    def get_seq_length(self, layer_idx: int = 0, /) -> int: ...


@dataclass(frozen=True)
class Positions:
    """Positions and masks of S observed tokens among K visible ones."""

    index: Tensor
    """Positions (S,) or (B, S)."""
    visible: Tensor | None
    """Mask (S, K) or (B, 1, S, K) of the tokens that each one sees. None: one token, which sees all."""
    plain: bool
    """Whether there are neither cached tokens nor padding, so that the causal mask is enough."""
    padded: bool = False

    @staticmethod
    def of(length: int, past: int, mask: Tensor | None, device: torch.device) -> Positions:
        """Positions of ``length`` new tokens after ``past`` cached ones. ``mask`` (B, past + length) is 0 at padding."""
        index = torch.arange(past, past + length, device=device)
        visible = index.unsqueeze(-1) >= torch.arange(past + length, device=device)
        if mask is None or bool(mask.all()):
            return Positions(index, visible if length > 1 else None, plain=past == 0)
        index = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        own = torch.eye(length, past + length, dtype=torch.bool, device=device).roll(past, 1)
        return Positions(index, visible & (mask.bool()[:, None, None, :] | own), plain=False, padded=True)

    def behind(self, token: bool) -> Positions:
        """The same positions after a prefix token, if there is one, which all of them see."""
        if not token:
            return self
        visible = None if self.visible is None else F.pad(self.visible, (1, 0), value=True)
        return replace(self, index=self.index + 1, visible=visible, plain=False)

    def last(self, predictions: int, observed: int) -> tuple[Tensor | None, int | None]:
        """Mask and horizon of the last ``predictions`` positions among ``observed`` ones (see ``Context``)."""
        all_of_them = self.visible is None or (predictions == 1 and not self.padded)
        visible = None if all_of_them or self.visible is None else self.visible[..., -predictions:, :]
        return visible, None if self.padded else observed - predictions + 1


class CausalTransformer(nn.Module):
    """Llama 2 style transformer on embeddings: RMSNorm, SwiGLU, rotary positions, no biases. The body of Transformer++."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = replace(config, conditioning="none")
        self.blocks = Blocks(self.config)
        self.norm = OutputNorm(self.config)
        initialise(self, self.config)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Hidden states (B, S, D) of embeddings (B, S, D). ``mask`` (B, K) is 0 at padding; ``cache`` holds earlier tokens."""
        return self.norm(self.stream(x, mask, cache)[-1])

    def stream(self, x: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> list[Tensor]:
        """Output of each block. Arguments as in ``forward``."""
        positions = Positions.of(x.shape[1], cache.get_seq_length() if cache is not None else 0, mask, x.device)
        return [layer.output for layer in observe(self.blocks, self.config, x, positions, cache)]


class Layer(NamedTuple):
    """What a block makes of the observed tokens."""

    output: Tensor
    """Output (B, S, D). Where nobody reads it, the input."""
    keys: Tensor
    """Keys (B, H, K, d) of all visible positions."""
    values: Tensor
    """Values (B, H, K, d) of all visible positions."""


def observe(
    blocks: Blocks,
    config: NetworkConfig,
    x: Tensor,
    positions: Positions,
    cache: KeyValueCache | None,
    first_layer: int = 0,
    condition: Tensor | None = None,
    front: list[Layer] | None = None,
    last_output: bool = True,
) -> list[Layer]:
    """Run the observed stream with causal attention, and return one ``Layer`` per block.

    Args:
        blocks: Blocks of the network.
        config: Configuration of the network.
        x: Embeddings (B, S, D).
        positions: Positions of the embeddings.
        cache: Cache to append to.
        first_layer: Index of the cache layer that belongs to the first block.
        condition: Condition of the adaptive norms.
        front: Layers of the prefix token, which is not cached.
        last_output: Whether the output of the last block is read. Otherwise only its keys and values are computed.
    """
    rotary, layers = rotation(positions.index, config.dim // config.heads, config.rope_theta, x), []

    def visible(i: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all visible positions of a block, those of the cache and of the prefix token included."""
        if cache is not None:
            k, v = cache.update(k, v, first_layer + i)
        if front is None:
            return k, v
        token = [part.expand(len(k), -1, -1, -1) for part in (front[i].keys, front[i].values)]
        return torch.cat((token[0], k), 2), torch.cat((token[1], v), 2)

    for i, block in enumerate(blocks):

        def attend(q: Tensor, k: Tensor, v: Tensor, i: int = i) -> tuple[Tensor, Tensor, Tensor]:
            k, v = visible(i, k, v)
            keys, values = for_all_heads(q, k, v)
            if positions.plain:
                return F.scaled_dot_product_attention(q, keys, values, is_causal=True), k, v
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=positions.visible), k, v

        if i == len(blocks) - 1 and not last_output:
            layers.append(Layer(x, *visible(i, *block(x, None, rotary, condition))))
            continue
        layers.append(Layer(*block(x, attend, rotary, condition)))
        x = layers[-1].output
    return layers


@dataclass(frozen=True)
class Context:
    """An encoded context."""

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values (B, H, K, d) of every layer."""
    visible: Tensor | None
    """See ``Positions``."""
    rotary: Tensor
    anchor: Tensor | None = None
    """Tensor (B, S, D) added to the candidates, see ``NetworkConfig.anchor``."""
    condition: Tensor | None = None
    """Condition (D,) of the adaptive norms."""
    horizon: int | None = None
    """Number of positions that the first prediction sees; each later one sees one more. None with padding."""
    stream: tuple[Tensor, ...] = ()
    """Output of each block for the observed tokens (B, S, D), on request. Empty after ``rows``."""
    few: bool = False
    """Whether candidates have one position and no weight needs a gradient, so that blocks are ``run_once``."""

    def tensors(self) -> list[Tensor]:
        """All tensors that may require gradients."""
        return [tensor for layer in self.layers for tensor in layer] + ([] if self.anchor is None else [self.anchor])

    def on(self, tensors: list[Tensor]) -> Context:
        """The same context with new values for ``tensors()``."""
        layers = [(tensors[i], tensors[i + 1]) for i in range(0, 2 * len(self.layers), 2)]
        return replace(self, layers=layers, anchor=None if self.anchor is None else tensors[-1])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, once: bool) -> Tensor:
        """Attention (N, H, S, d) of candidates to a layer of the context and to themselves, differentiable once or twice."""
        length, seen = q.shape[2], self.visible
        k, v, keys, values = for_all_heads(q, k, v, keys, values)
        if once and length > 1:
            causal = self.horizon == 1 and length == keys.shape[2]
            if (attended := attend_once(q, k, v, keys, values, seen, causal)) is not None:
                return attended
        if length > 1 and len(q) == len(keys) and self.horizon is not None and q.device.type == "cpu":
            return attend_causally(q, k, v, keys, values, self.horizon)
        return attend_context_and_self(q, k, v, keys, values, seen)

    def rows(self, index: Tensor | slice) -> Context:
        """The context of the rows given by ``index``."""
        return Context(
            [(k[index], v[index]) for k, v in self.layers],
            self.visible if self.visible is None or self.visible.dim() == 2 else self.visible[index],
            self.rotary[index] if self.rotary.dim() == 4 else self.rotary,
            None if self.anchor is None else self.anchor[index],
            self.condition,
            self.horizon,
            few=self.few,
        )


@dataclass(frozen=True)
class Places:
    """Rows and positions of n predictions among N x S. Only attention, which shares keys, works on the full shape."""

    row: Tensor
    position: Tensor

    def pick(self, whole: Tensor, dim: int = 2) -> Tensor:
        """Select (n, .., 1, d) from ``whole`` (N, .., S, d), with positions in dimension ``dim``."""
        return whole.movedim(dim, 1)[self.row, self.position].unsqueeze(dim)

    def spread(self, part: Tensor, rows: int, length: int) -> Tensor:
        """Scatter ``part`` (n, H, 1, d) into zeros (N, H, S, d)."""
        whole = part.new_zeros(rows, length, part.shape[1], part.shape[3])
        return whole.index_put((self.row, self.position), part.squeeze(2)).transpose(1, 2)


class EBTDecoder(EnergyNetwork):
    """Autoregressive EBT: prediction i attends to the observed positions 0..i and to itself.

    Observed positions do not attend to predictions, so the observed stream is computed once for all steps and candidates (once
    per step if the context depends on it). Both streams share their weights (paper, section 3.4).
    """

    def __init__(self, config: NetworkConfig, alpha0: float = 1.0) -> None:
        super().__init__(config, alpha0)
        self.scale = config.dim**0.5 if config.scale_inputs else 1.0

    def encode(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        predictions: int | None = None,
        states: bool = False,
    ) -> DecoderLandscape:
        """Bind the energy to a context.

        Args:
            x: Embeddings of observed tokens (B, S, D).
            mask: Mask (B, K), 0 at padding. K includes cached tokens.
            cache: Keys and values of earlier tokens, to append to. If each step has its own context, the cache holds them one
                after another, in ``conditioned_steps`` x ``layers`` layers.
            predictions: Number of last positions that predict. Default: all S.
            states: Whether to keep the hidden states of the observed tokens, for ``DecoderLandscape.stream``.

        Raises:
            ValueError: If ``predictions`` is not between 1 and S.
        """
        predictions = x.shape[1] if predictions is None else predictions
        if not 1 <= predictions <= x.shape[1]:
            raise ValueError(f"predictions is {predictions}: choose between 1 and {x.shape[1]}, the number of positions")
        x, steps = x * self.scale, self.config.conditioned_steps if self.config.context_per_step else 1
        contexts = {}
        if cache is not None:  # the cache needs every token at every step
            contexts = {step: self.context(x, mask, cache, step, predictions, states) for step in range(steps)}
        return DecoderLandscape(self, x, mask, predictions, torch.is_grad_enabled(), contexts, states)

    def context(
        self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None, step: int, predictions: int, states: bool = False
    ) -> Context:
        """Encode the context of the last ``predictions`` positions at one step."""
        token, condition, front = self.token(step, "prefix"), self.token(step, "modulation"), None
        if token is not None:
            alone = Positions.of(1, 0, None, x.device)
            front = observe(self.blocks, self.config, token.expand(1, 1, -1), alone, None, last_output=False)
        first_layer = self.own_step(step) * self.config.layers
        past = cache.get_seq_length(first_layer) if cache is not None else 0
        positions = Positions.of(x.shape[1], past, mask, x.device).behind(token=front is not None)
        read = states or self.config.anchor == "hidden"
        layers = observe(self.blocks, self.config, x, positions, cache, first_layer, condition, front, read)
        index = positions.index[..., -predictions:] + 1  # a prediction takes the position of the token it predicts
        rotary = rotation(index, self.config.dim // self.config.heads, self.config.rope_theta, x)
        anchor = None
        if self.config.anchor != "none":
            stream = (
                x if self.config.anchor == "token" else F.rms_norm(layers[-1].output, x.shape[-1:], eps=self.config.norm_eps)
            )
            anchor = stream[:, -predictions:]
        visible, horizon = positions.last(predictions, observed=layers[0].keys.shape[2])
        seen, hidden = [(k, v) for _, k, v in layers], tuple(layer.output for layer in layers) if states else ()
        few = predictions == 1 and not torch.is_grad_enabled() and all(map(written_out, self.blocks))
        return Context(seen, visible, rotary, anchor, condition, horizon, hidden, few)

    def own_step(self, step: int) -> int:
        """Index of the context that a step uses."""
        return self.steps.index(step) if self.steps is not None and self.config.context_per_step else 0

    def energy(
        self,
        candidate: Tensor,
        context: Context,
        step: int,
        places: Places | None = None,
        unseen: bool = False,
        once: bool = False,
    ) -> Tensor:
        """Energies (N, S) of candidates (N, S, D) in a context of B rows, N = M x B.

        With n ``places``, energies (n, 1) of candidates (n, 1, D). For ``unseen`` and ``once``, see ``EBTEncoder.energy``.
        """
        view = candidate * self.scale
        seen = torch.zeros_like(view) if unseen else view
        hidden = self.passes.hidden if unseen and self.passes is not None else EBTDecoder.hidden
        return self.head(hidden(self, seen, context, step, places, once or unseen), view, context.condition)

    def hidden(self, candidate: Tensor, context: Context, step: int, places: Places | None, once: bool) -> Tensor:
        """Output of the last block for scaled candidates. Arguments and shapes as in ``energy``."""
        if (token := self.token(step, "candidate")) is not None:
            candidate = candidate + token
        rows, length = context.layers[0][0].shape[0], context.rotary.shape[-2]
        repeats = 1 if places is not None else candidate.shape[0] // rows
        if context.anchor is not None:
            anchor = context.anchor.repeat(repeats, 1, 1)
            candidate = candidate + (anchor if places is None else places.pick(anchor, 1))
        rotary = context.rotary
        if rotary.dim() == 4 or places is not None:
            rotary = rotary.expand(rows, 1, -1, -1).repeat(repeats, 1, 1, 1)
            rotary = rotary if places is None else places.pick(rotary)
        few = once and context.few and not torch.is_autocast_enabled(candidate.device.type)
        for block, (keys, values) in zip(self.blocks, context.layers, strict=True):
            if few and places is None and not torch.compiler.is_compiling():
                candidate = run_once(block, candidate, keys, values, context.visible, rotary)
                continue

            def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor = keys, values: Tensor = values) -> tuple[Tensor]:
                if places is None:
                    return (context.attend(q, k, v, keys, values, once),)
                q, k, v = (places.spread(part, rows, length) for part in (q, k, v))
                return (places.pick(context.attend(q, k, v, keys, values, once)),)

            (candidate,) = block(candidate, attend, rotary, context.condition)
        return candidate


@dataclass(frozen=True, eq=False)
class DecoderLandscape(Landscape):
    """The energy of candidates for the next elements of an encoded context."""

    network: EBTDecoder
    x: Tensor
    mask: Tensor | None
    predictions: int
    learns: bool
    """Whether contexts need gradients, as in training. Thinking itself always enables gradients."""
    contexts: dict[int, Context]
    """Contexts computed so far, by ``own_step``."""
    states: bool = False
    """Whether contexts keep the hidden states of the observed tokens."""
    places: Places | None = None

    def stream(self) -> tuple[Tensor, ...]:
        """Embeddings and output of each block for the observed tokens, (B, S, D) each."""
        return self.x, *self._context(0).stream

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        return self.network.energy(candidate, self._context(step), step, self.places, self.blind, self.differentiated_once)

    def _context(self, step: int) -> Context:
        index = self.network.own_step(step)
        if index not in self.contexts:
            with torch.set_grad_enabled(self.learns):
                self.contexts[index] = self.network.context(self.x, self.mask, None, index, self.predictions, self.states)
        return self.contexts[index]

    def roots(self) -> list[Tensor] | None:
        """Input and weights. None if each step has its own context."""
        if self.network.config.context_per_step or not self.learns:
            return None
        return [self.x, *self.network.parameters()]

    def on(self, x: Tensor) -> DecoderLandscape:
        """The same landscape with another input."""
        return replace(self, x=x, contexts={})

    def separate(self, rows: slice) -> Separated:
        """The landscape of some rows, with the context as leaves."""
        part = self._take(rows)
        context = part._context(0)
        sources = context.tensors()
        leaves = [source.detach().requires_grad_(source.requires_grad) for source in sources]
        return Separated(replace(part, contexts={0: context.on(leaves)}), sources, leaves)

    def select(self, rows: Tensor, positions: Tensor | None = None) -> DecoderLandscape:
        """The landscape of some candidate rows (indices into M x B), or of n predictions at (rows, positions)."""
        places = None
        if positions is not None and self.predictions > 1:
            rows, row = rows.unique(return_inverse=True)
            places = Places(row, positions)
        return replace(self._take(rows % self.x.shape[0]), places=places)

    def _take(self, rows: Tensor | slice) -> DecoderLandscape:
        contexts = {step: context.rows(rows) for step, context in self.contexts.items()}
        return replace(self, x=self.x[rows], mask=None if self.mask is None else self.mask[rows], contexts=contexts)
