"""Autoregressive networks: the EBT decoder and its feed-forward twin, the causal transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.nn.blocks import Blocks, EnergyNetwork, Landscape, OutputNorm, attend_context_and_self, initialise, rotation
from ebt.nn.causal import attend_causally
from ebt.nn.config import NetworkConfig
from ebt.thinking.fast.adjoint import Separated


class KeyValueCache(Protocol):
    """Keys and values of earlier positions, as Hugging Face's caches keep them."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, /) -> tuple[Tensor, Tensor]:
        """Append (B, H, S, d) and return all (B, H, K, d)."""
        ...

    def get_seq_length(self, layer_idx: int = 0, /) -> int: ...


@dataclass(frozen=True)
class Positions:
    """Where S observed tokens stand among K visible ones: positions (S,) or (B, S), visibility (S, K) or (B, 1, S, K)."""

    index: Tensor
    visible: Tensor | None
    """None: one token sees everything."""
    plain: bool
    """Nothing before them, nothing padded: the causal mask alone."""
    padded: bool = False

    @staticmethod
    def of(length: int, past: int, mask: Tensor | None, device: torch.device) -> Positions:
        """From the number of new and cached tokens, and an attention mask (B, past + length) with 0 at padding."""
        index = torch.arange(past, past + length, device=device)
        visible = index.unsqueeze(-1) >= torch.arange(past + length, device=device)
        if mask is None or bool(mask.all()):
            return Positions(index, visible if length > 1 else None, plain=past == 0)
        index = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, past:]
        own = torch.eye(length, past + length, dtype=torch.bool, device=device).roll(past, 1)
        return Positions(index, visible & (mask.bool()[:, None, None, :] | own), plain=False, padded=True)

    def behind(self, token: bool) -> Positions:
        """The same positions, behind a token in front that all of them see, if there is one."""
        if not token:
            return self
        visible = None if self.visible is None else F.pad(self.visible, (1, 0), value=True)
        return replace(self, index=self.index + 1, visible=visible, plain=False)

    def last(self, predictions: int, observed: int) -> tuple[Tensor | None, int | None]:
        """What the last of them see of all observed positions, and how many the first of these sees (see ``Context``)."""
        all_of_them = self.visible is None or (predictions == 1 and not self.padded)
        visible = None if all_of_them or self.visible is None else self.visible[..., -predictions:, :]
        return visible, None if self.padded else observed - predictions + 1


class CausalTransformer(nn.Module):
    """Llama-2 style stack on embeddings: RMSNorm, SwiGLU, rotary positions, no biases. With a word head: Transformer++."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = replace(config, conditioning="none")
        self.blocks = Blocks(self.config)
        self.norm = OutputNorm(self.config)
        initialise(self, self.config)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """Hidden states (B, S, D) of embeddings (B, S, D); ``mask`` (B, K) is 0 at padding, ``cache`` holds earlier tokens."""
        return self.norm(self.stream(x, mask, cache)[-1])

    def stream(self, x: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None) -> list[Tensor]:
        """What comes out of each block, for the arguments of ``forward``."""
        positions = Positions.of(x.shape[1], cache.get_seq_length() if cache is not None else 0, mask, x.device)
        return [hidden for hidden, _, _ in observe(self.blocks, self.config, x, positions, cache)]


Layer = tuple[Tensor, Tensor, Tensor]
"""The stream after a block (B, S, D), with the block's keys and values (B, H, K, d) of all visible positions."""


def observe(
    blocks: Blocks,
    config: NetworkConfig,
    x: Tensor,
    positions: Positions,
    cache: KeyValueCache | None,
    first_layer: int = 0,
    condition: Tensor | None = None,
    front: list[Layer] | None = None,
) -> list[Layer]:
    """The observed stream, plain causal.

    Args:
        blocks: the network's.
        config: the network's.
        x: embeddings (B, S, D).
        positions: of the embeddings.
        cache: appended to.
        first_layer: of the cache that belongs to the first block.
        condition: of the adaptive norms.
        front: the layers of a token in front, which is no part of the cache.
    """
    rotary = rotation(positions.index, config.dim // config.heads, config.rope_theta, x)
    layers = []
    for i, block in enumerate(blocks):
        adapted = block.adapt(condition)
        q, k, v = block.project(x, rotary, adapted)
        if cache is not None:
            k, v = cache.update(k, v, first_layer + i)
        if front is not None:
            k, v = (
                torch.cat((token.expand(len(x), -1, -1, -1), rest), 2) for token, rest in zip(front[i][1:], (k, v), strict=True)
            )
        if positions.plain:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=positions.visible)
        x = block.finish(x, attended, adapted)
        layers.append((x, k, v))
    return layers


@dataclass(frozen=True)
class Context:
    """An encoded context: what a prediction may look at, and from where."""

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values (B, H, K, d) of every layer."""
    visible: Tensor | None
    """As ``Positions`` have it."""
    rotary: Tensor
    anchor: Tensor | None = None
    """(B, S, D), what each prediction's stream starts from besides its candidate."""
    condition: Tensor | None = None
    """(D,), of the adaptive norms."""
    horizon: int | None = None
    """How many positions the first prediction sees, if each next one sees one more; None where there is padding."""
    stream: tuple[Tensor, ...] = ()
    """The observed stream after each block (B, S, D), where rows were not chosen since."""

    def tensors(self) -> list[Tensor]:
        """Everything in it that may learn."""
        return [tensor for layer in self.layers for tensor in layer] + ([] if self.anchor is None else [self.anchor])

    def on(self, tensors: list[Tensor]) -> Context:
        """The same context with others in the place of ``tensors()``."""
        layers = [(tensors[i], tensors[i + 1]) for i in range(0, 2 * len(self.layers), 2)]
        return replace(self, layers=layers, anchor=None if self.anchor is None else tensors[-1])

    def rows(self, index: Tensor | slice) -> Context:
        """The context of rows B, taken once for each entry of ``index``."""
        return Context(
            [(k[index], v[index]) for k, v in self.layers],
            self.visible if self.visible is None or self.visible.dim() == 2 else self.visible[index],
            self.rotary[index] if self.rotary.dim() == 4 else self.rotary,
            None if self.anchor is None else self.anchor[index],
            self.condition,
            self.horizon,
        )


@dataclass(frozen=True)
class Places:
    """Where n predictions stand among N rows of S positions: only the attention, which shares keys, sees them there."""

    row: Tensor
    position: Tensor

    def pick(self, whole: Tensor, dim: int = 2) -> Tensor:
        """From (N, .., S, d) with the positions in ``dim``: (n, .., 1, d)."""
        return whole.movedim(dim, 1)[self.row, self.position].unsqueeze(dim)

    def spread(self, part: Tensor, rows: int, length: int) -> Tensor:
        """(N, H, S, d) of (n, H, 1, d), zero elsewhere."""
        whole = part.new_zeros(rows, length, part.shape[1], part.shape[3])
        return whole.index_put((self.row, self.position), part.squeeze(2)).transpose(1, 2)


class EBTDecoder(EnergyNetwork):
    """Autoregressive EBT: prediction i attends to the observed positions 0..i and to itself, never the other way round.

    So the observed stream is computed once and serves every step and candidate (with a step token in front: once a step).
    Both streams share their weights (paper, section 3.4).
    """

    def __init__(self, config: NetworkConfig, alpha0: float = 1.0) -> None:
        super().__init__(config, alpha0)
        self.scale = config.dim**0.5 if config.scale_inputs else 1.0

    def encode(
        self, x: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None, predictions: int | None = None
    ) -> DecoderLandscape:
        """Bind the energy to a context.

        Args:
            x: embeddings of observed tokens (B, S, D).
            mask: (B, K), 0 at padding; K counts cached tokens, too.
            cache: keys and values of earlier tokens; appended to. Where each step has its own context, it holds one after
                another, ``conditioned_steps`` x ``layers`` layers.
            predictions: how many of the last positions predict; all S by default.

        Raises:
            ValueError: more predictions than positions, or none.
        """
        predictions = x.shape[1] if predictions is None else predictions
        if not 1 <= predictions <= x.shape[1]:
            raise ValueError(f"predictions is {predictions}: choose from 1 to the {x.shape[1]} positions given")
        x, steps = x * self.scale, self.config.conditioned_steps if self.config.context_per_step else 1
        contexts = {}
        if cache is not None:  # it must take in every token at every step, used or not
            contexts = {step: self.context(x, mask, cache, step, predictions) for step in range(steps)}
        return DecoderLandscape(self, x, mask, predictions, torch.is_grad_enabled(), contexts)

    def context(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None, step: int, predictions: int) -> Context:
        """Keys, values and masks for the last ``predictions`` positions, at one step."""
        token, condition, front = self.token(step, "prefix"), self.token(step, "modulation"), None
        if token is not None:
            alone = Positions.of(1, 0, None, x.device)
            front = observe(self.blocks, self.config, token.expand(1, 1, -1), alone, None)
        first_layer = self.own_step(step) * self.config.layers
        past = cache.get_seq_length(first_layer) if cache is not None else 0
        positions = Positions.of(x.shape[1], past, mask, x.device).behind(token=front is not None)
        layers = observe(self.blocks, self.config, x, positions, cache, first_layer, condition, front)
        index = positions.index[..., -predictions:] + 1  # a prediction stands where the token it predicts will stand
        rotary = rotation(index, self.config.dim // self.config.heads, self.config.rope_theta, x)
        anchor = None
        if self.config.anchor != "none":
            stream = x if self.config.anchor == "token" else F.rms_norm(layers[-1][0], x.shape[-1:], eps=self.config.norm_eps)
            anchor = stream[:, -predictions:]
        visible, horizon = positions.last(predictions, observed=layers[0][1].shape[2])
        seen, hidden = [(k, v) for _, k, v in layers], tuple(layer[0] for layer in layers)
        return Context(seen, visible, rotary, anchor, condition, horizon, hidden)

    def own_step(self, step: int) -> int:
        """Which of the contexts serves a step."""
        return self.steps.index(step) if self.steps is not None and self.config.context_per_step else 0

    def energy(
        self, candidate: Tensor, context: Context, step: int, places: Places | None = None, unseen: bool = False
    ) -> Tensor:
        """Energies (N, S) of candidates (N, S, D) in a context of B rows, N = M x B; (n, 1) of (n, 1, D) at n places.

        ``unseen``: by the blocks, see ``EBTEncoder.energy``.
        """
        view = candidate * self.scale
        candidate = torch.zeros_like(view) if unseen else view
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
        alone = repeats == 1 and length > 1 and candidate.device.type == "cpu"
        for block, (keys, values) in zip(self.blocks, context.layers, strict=True):
            adapted = block.adapt(context.condition)
            q, k, v = block.project(candidate, rotary, adapted)
            if places is not None:
                q, k, v = (places.spread(part, rows, length) for part in (q, k, v))
            if alone and context.horizon is not None:
                attended = attend_causally(q, k, v, keys, values, context.horizon)
            else:
                attended = attend_context_and_self(q, k, v, keys, values, context.visible)
            if places is not None:
                attended = places.pick(attended)
            candidate = block.finish(candidate, attended, adapted)
        return self.head(candidate, view, context.condition)


@dataclass(frozen=True, eq=False)
class DecoderLandscape(Landscape):
    """The energy of candidates for the next elements of an encoded context."""

    network: EBTDecoder
    x: Tensor
    mask: Tensor | None
    predictions: int
    learns: bool
    """Thinking enables gradients, which a context needs in training only."""
    contexts: dict[int, Context]
    """Those that have been computed."""
    places: Places | None = None

    def stream(self) -> tuple[Tensor, ...]:
        """The embeddings, and the observed stream after each block, (B, S, D) each."""
        return self.x, *self._context(0).stream

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        return self.network.energy(candidate, self._context(step), step, self.places, self.blind)

    def _context(self, step: int) -> Context:
        index = self.network.own_step(step)
        if index not in self.contexts:
            with torch.set_grad_enabled(self.learns):
                self.contexts[index] = self.network.context(self.x, self.mask, None, index, self.predictions)
        return self.contexts[index]

    def roots(self) -> list[Tensor] | None:
        """Inputs and weights; None where each step has a context of its own."""
        if self.network.config.context_per_step or not self.learns:
            return None
        return [self.x, *self.network.parameters()]

    def on(self, x: Tensor) -> DecoderLandscape:
        """The same landscape with other inputs."""
        return replace(self, x=x, contexts={})

    def separate(self, rows: slice) -> Separated:
        """The landscape of some rows, with the context as leaves."""
        part = self._take(rows)
        context = part._context(0)
        sources = context.tensors()
        leaves = [source.detach().requires_grad_(source.requires_grad) for source in sources]
        return Separated(replace(part, contexts={0: context.on(leaves)}), sources, leaves)

    def select(self, rows: Tensor, positions: Tensor | None = None) -> DecoderLandscape:
        """The landscape of some candidate rows (indices into M x B), or of the predictions at (rows, positions), (n, 1, D)."""
        places = None
        if positions is not None and self.predictions > 1:
            rows, row = rows.unique(return_inverse=True)
            places = Places(row, positions)
        return replace(self._take(rows % self.x.shape[0]), places=places)

    def _take(self, rows: Tensor | slice) -> DecoderLandscape:
        contexts = {step: context.rows(rows) for step, context in self.contexts.items()}
        return replace(self, x=self.x[rows], mask=None if self.mask is None else self.mask[rows], contexts=contexts)
