"""Layers shared by all networks: attention, rotary embeddings, norms, blocks and the energy head.

Shapes: B rows of context, N rows of candidates (M x B, candidate-major), S positions, K visible context positions, H heads,
D width, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ebt.nn.config import Conditioning, NetworkConfig
from ebt.nn.second_order import rms_norm, swiglu
from ebt.thinking.fast import saving
from ebt.thinking.fast.central import Passes
from ebt.thinking.noise import precise


def rotation(positions: Tensor, head_dim: int, theta: float, like: Tensor) -> Tensor:
    """Rotations of rotary embeddings for positions (S,) or (B, S): complex numbers, broadcastable to (B, H, S, d / 2).

    Angles are computed in float64, on the CPU if the device does not support it.
    """
    places = positions
    if positions.device.type not in ("cpu", "cuda"):
        places = torch.zeros_like(positions, device="cpu") if positions.is_meta else positions.cpu()
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim
    angle = places.unsqueeze(-1) * (theta**-exponent).to(places.device)
    angle = angle.unsqueeze(-3) if angle.dim() == 3 else angle
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.complex(angle.cos().to(dtype), angle.sin().to(dtype)).to(like.device)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the last dimension of x (..., S, d)."""
    if torch.compiler.is_compiling():  # compilers do not generate code for complex numbers
        (even, odd), (cos, sin) = precise(x).unflatten(-1, (-1, 2)).unbind(-1), torch.view_as_real(rotary).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)
    pairs = torch.view_as_complex(precise(x).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Projections of multi-head attention, shared by context and candidates."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.head_dim = config.dim // config.heads
        biased, shared = config.block == "dit", config.groups * self.head_dim
        self.query = nn.Linear(config.dim, config.dim, biased)
        self.key, self.value = (nn.Linear(config.dim, shared, biased) for _ in range(2))
        self.output = nn.Linear(config.dim, config.dim, biased)

    def project(self, x: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, S, d), keys and values (B, H or fewer, S, d) of x (B, S, D)."""
        q = self._heads(self.query, x)
        return q if rotary is None else rotate(q, rotary), *self.project_context(x, rotary)

    def project_context(self, x: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H or fewer, S, d) of x (B, S, D)."""
        k, v = self._heads(self.key, x), self._heads(self.value, x)
        return k if rotary is None else rotate(k, rotary), v

    def _heads(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        return self.output(x.transpose(-3, -2).flatten(-2))


def for_all_heads(q: Tensor, *shared: Tensor) -> tuple[Tensor, ...]:
    """Keys or values (B, H or fewer, S, d), repeated for the heads of the queries that share them, (B, H, S, d)."""
    return tuple(
        part.repeat_interleave(q.shape[1] // part.shape[1], 1) if part.shape[1] < q.shape[1] else part for part in shared
    )


class Relations(nn.Module):
    """Learned attention biases, per layer and head, between parts that are related in one of R ways. They start at zero.

    Args:
        config: Configuration of the network.
        count: Number of relations R.
    """

    def __init__(self, config: NetworkConfig, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.layers, config.heads, count))
        self.scale = config.dim**0.5
        """Keeps the weights as small as those of tables, so they learn as fast."""

    def related(self, length: int) -> Tensor:
        """Which parts are related, for each relation, (R, length, length). Positions in front of the parts are related to
        none."""
        raise NotImplementedError

    def strength(self, length: int) -> Tensor:
        """Bias of each relation, (L, H, R)."""
        return self.weight * self.scale

    def forward(self, length: int) -> tuple[Tensor, ...]:
        """Bias of each layer, (H, length, length)."""
        related = self.related(length).to(self.weight.dtype)
        return torch.einsum("lhr,rst->lhst", self.strength(length), related).unbind()


class Groups(Relations):
    """Relations between parts in the same group.

    Args:
        config: Configuration of the network.
        groups: Group of each of the S parts, for R ways to group them, (R, S).
    """

    groups: Tensor

    def __init__(self, config: NetworkConfig, groups: Tensor) -> None:
        super().__init__(config, len(groups))
        self.register_buffer("groups", groups)  # persistent, or loading a model would lose it

    def related(self, length: int) -> Tensor:
        front = length - self.groups.shape[1]
        return F.pad(self.groups.unsqueeze(-1) == self.groups.unsqueeze(-2), (front, 0, front, 0))


class Neighbours(Relations):
    """Relations of each square of a grid to itself and to those above, below, left and right of it.

    The parts are the n x n squares of a grid of any size, row by row, so the same weights serve all sizes. A related square
    starts with the weight of all n x n squares together, so that its share of the attention does not depend on n.

    Args:
        config: Configuration of the network.
    """

    OFFSETS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    """Rows and columns from a square to the related one."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config, len(self.OFFSETS))

    def related(self, length: int) -> Tensor:
        size = math.isqrt(length)
        front, places = length - size**2, torch.arange(size**2, device=self.weight.device)
        row, column = places // size, places % size
        down, right = row - row.unsqueeze(-1), column - column.unsqueeze(-1)
        return F.pad(torch.stack([(down == high) & (right == wide) for high, wide in self.OFFSETS]), (front, 0, front, 0))

    def strength(self, length: int) -> Tensor:
        return super().strength(length) + math.log(length)


def attend_context_and_self(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
    """Attention (N, H, S, d) of each candidate to the visible context and to itself, in one softmax. Twice differentiable.

    Args:
        q: Queries of the candidates (N, H, S, d), N = M x B.
        k: Keys of the candidates (N, H, S, d).
        v: Values of the candidates (N, H, S, d).
        keys: Keys of the context (B, H, K, d), shared by the M candidates.
        values: Values of the context (B, H, K, d), shared by the M candidates.
        visible: Mask (S, K) or (B, 1, S, K) of the context positions that each candidate sees. None: all.
    """
    n, heads, length, width = q.shape
    rows = keys.shape[0]
    folded = q.view(-1, rows, heads, length, width).permute(1, 2, 0, 3, 4).reshape(rows, heads, -1, width)
    scores = (folded @ keys.transpose(-1, -2)).view(rows, heads, -1, length, keys.shape[2])
    if visible is not None:
        scores = scores.masked_fill(~(visible if visible.dim() == 2 else visible.unsqueeze(2)), float("-inf"))
    own = (q * k).sum(-1, keepdim=True).view(-1, rows, heads, length, 1).permute(1, 2, 0, 3, 4)
    weights = (torch.cat((own, scores), -1) * width**-0.5).softmax(-1)
    seen = (weights[..., 1:].flatten(2, 3) @ values).view(rows, heads, -1, length, width)
    seen = seen.permute(2, 0, 1, 3, 4).reshape(n, heads, length, width)
    return seen + weights[..., :1].permute(2, 0, 1, 3, 4).reshape(n, heads, length, 1) * v


def norm(config: NetworkConfig) -> nn.Module:
    """The norm of a network's block style."""
    if config.block == "dit":
        return nn.LayerNorm(config.dim, eps=config.norm_eps, elementwise_affine=False)
    return RMSNorm(config.dim, eps=config.norm_eps)


class RMSNorm(nn.RMSNorm):
    """Root mean square norm with explicit second derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps or 0.0)


class Modulation(nn.Module):
    """Shift, scale and gate from a condition, initialised to zero (adaLN-Zero; Peebles & Xie 2023)."""

    def __init__(self, config: NetworkConfig, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.projection = nn.Linear(config.dim, parts * config.dim)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """``parts`` tensors (..., 1, D) from a condition (..., D)."""
        return self.projection(F.silu(condition)).unsqueeze(-2).chunk(self.parts, -1)


def adapt(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale a normalised input."""
    return x * (1 + scale) + shift


Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""Maps queries (B, H, S, d), keys and values (B, H or fewer, S, d) of a block to the outputs of its heads (B, H, S, d), and to
more to return."""


class Block(nn.Module):
    """Pre-norm transformer block: attention and a feed-forward layer, each with a residual connection.

    ``condition`` (D,) or (B, D) is for the adaptive norms of networks with ``conditioning="modulation"``.
    """

    gradient_checkpointing = False
    """Whether training recomputes activations in backward passes. This switch and the next attribute are set by
    ``transformers``' ``gradient_checkpointing_enable()``."""
    _gradient_checkpointing_func = staticmethod(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        swiglu = config.block == "llama"
        self.attention_norm = norm(config)
        self.attention = Attention(config)
        self.ffn_norm = norm(config)
        self.gate = nn.Linear(config.dim, config.hidden, bias=False) if swiglu else None
        self.up = nn.Linear(config.dim, config.hidden, bias=not swiglu)
        self.down = nn.Linear(config.hidden, config.dim, bias=not swiglu)
        self.modulation = Modulation(config, 6) if config.conditioning == "modulation" else None

    def forward(
        self, x: Tensor, attend: Attend | None, rotary: Tensor | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Output of the block, followed by what ``attend`` returns besides the outputs of the heads.

        Args:
            x: Input (B, S, D).
            attend: Computes attention from queries, keys and values. None: only the keys and values of ``x`` are computed and
                returned, (B, H or fewer, S, d).
            rotary: Rotations of queries and keys, see ``rotation``.
            condition: Condition of the adaptive norms.
        """
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(self._run, x, attend, rotary, condition)
        if saving.saves_less():
            with saving.block():
                return self._run(x, attend, rotary, condition)
        return self._run(x, attend, rotary, condition)

    def _run(self, x: Tensor, attend: Attend | None, rotary: Tensor | None, condition: Tensor | None) -> tuple[Tensor, ...]:
        adapted = None if self.modulation is None or condition is None else self.modulation(condition)
        normed = self.attention_norm(x)
        normed = normed if adapted is None else adapt(normed, *adapted[:2])
        if attend is None:
            return self.attention.project_context(normed, rotary)
        attended, *more = attend(*self.attention.project(normed, rotary))
        return self._finish(x, attended, adapted), *more

    def _finish(self, x: Tensor, attended: Tensor, adapted: tuple[Tensor, ...] | None) -> Tensor:
        """The rest of the block, given the outputs of the heads (B, H, S, d)."""
        if adapted is None:
            x = x + self.attention.merge(attended)
            return x + saving.input_alone(lambda x: self._feed_forward(self.ffn_norm(x)), x)
        _, _, gate, shift, scale, ffn_gate = adapted
        x = x + gate * self.attention.merge(attended)
        return x + ffn_gate * saving.input_alone(lambda x: self._feed_forward(adapt(self.ffn_norm(x), shift, scale)), x)

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(swiglu(self.gate(x), self.up(x)))


class Blocks(nn.ModuleList):
    """The stack of blocks of one network."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(Block(config) for _ in range(config.layers))

    def __iter__(self) -> Iterator[Block]:
        return cast(Iterator[Block], super().__iter__())


class OutputNorm(nn.Module):
    """The norm after the last block. Adaptive with ``conditioning="modulation"``."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm = norm(config)
        self.modulation = Modulation(config, 2) if config.conditioning == "modulation" else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        return normed if self.modulation is None or condition is None else adapt(normed, *self.modulation(condition))


class ToNumber(nn.Linear):
    """A linear map to a scalar, in at least float32 even under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return (precise(x) * precise(self.weight[0])).sum(-1, keepdim=True)


class EnergyHead(nn.Module):
    """The energy of each part. By default it is zero at initialisation, so training starts from a flat landscape.

    With the output ``x`` of the blocks, norm ``n`` and candidate ``e``: linear ``E = w . n(x)`` (paper), bilinear
    ``E = -w . (n(x) * e)``, quadratic ``E = -w . (x * e)``. The energy is divided by the initial step size ``alpha0``, so loss
    and gradients do not depend on ``alpha0``. It is computed in at least float32.
    """

    def __init__(self, config: NetworkConfig, alpha0: float) -> None:
        super().__init__()
        self.norm = OutputNorm(config) if config.head != "quadratic" else None
        self.projection = ToNumber(config.dim, 1, bias=False)
        self.bilinear = config.head != "linear"
        self.scale = config.dim**0.5 / alpha0 if self.bilinear else 1 / alpha0

    def forward(self, x: Tensor, candidate: Tensor, condition: Tensor | None = None) -> Tensor:
        """Energies (N, S) from the output x (N, S, D) of the blocks and candidates (N, S, D)."""
        normed = x if self.norm is None else self.norm(x, condition)
        return self.projection(-normed * candidate if self.bilinear else normed).squeeze(-1) * self.scale

    def coefficient(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``c`` (N, S, D) of the energies ``<c, candidate>`` of a bilinear or quadratic head."""
        normed = x if self.norm is None else self.norm(x, condition)
        return -precise(normed) * precise(self.projection.weight[0]) * self.scale


class StepEmbedding(nn.Module):
    """One learned vector per step index. Later indices use the last one."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.vectors = nn.Embedding(config.conditioned_steps, config.dim)

    def index(self, step: int) -> int:
        return min(step, self.vectors.num_embeddings - 1)

    def forward(self, step: int) -> Tensor:
        return self.vectors.weight[self.index(step)]


class EnergyNetwork(nn.Module):
    """Base class of networks with an energy: blocks, energy head and step embedding.

    Args:
        config: Configuration of the network.
        alpha0: Initial step size, by which the head divides the energy.
        relations: Attention biases between parts.
    """

    def __init__(self, config: NetworkConfig, alpha0: float = 1.0, relations: Relations | None = None) -> None:
        super().__init__()
        self.config = config
        self.blocks = Blocks(config)
        self.relations = relations
        self.head = EnergyHead(config, alpha0)
        self.steps = StepEmbedding(config) if config.conditioning != "none" else None
        self.passes: Passes | None = None
        """Compiled evaluations for training by central differences."""
        initialise(self, config)

    def token(self, step: int, conditioning: Conditioning) -> Tensor | None:
        """The vector (D,) of a step index, or None if the network uses another conditioning."""
        return self.steps(step) if self.steps is not None and self.config.conditioning == conditioning else None


@dataclass(frozen=True, eq=False)
class Landscape:
    """Base class of landscapes, see ``ebt.thinking.Energy``."""

    network: Any
    blind: bool = field(default=False, kw_only=True)
    """Whether candidates are hidden from the blocks."""
    differentiated_once: bool = field(default=False, kw_only=True)
    """Whether energies have first derivatives only, so that attention can use fused kernels."""

    @property
    def passes(self) -> Passes | None:
        """See ``EnergyNetwork.passes``."""
        return self.network.passes

    def once(self) -> Self:
        """The same landscape with first derivatives only."""
        return replace(self, differentiated_once=True)

    def unseen(self) -> Self:
        """The same landscape with candidates hidden from the blocks.

        Raises:
            ValueError: If the head is linear, since no energy would depend on the candidates.
        """
        if not self.network.head.bilinear:
            raise ValueError("the energy head is linear, so blocks must see the candidates: choose head bilinear or quadratic")
        return replace(self, blind=True)


def initialise(network: nn.Module, config: NetworkConfig) -> None:
    """Initialise all weights: normal with std 1 / sqrt(fan in), smaller for residual outputs, zero for gates and, unless
    ``head_init`` differs, for the energy head. Weights on the meta device are left alone."""
    if next(network.parameters()).is_meta:
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(("attention.output", "down"))
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * ((2 * config.layers) ** -0.5 if residual else 1.0))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=config.dim**-0.5)
    for module in network.modules():
        if isinstance(module, EnergyHead) and config.head_init == "xavier":
            nn.init.xavier_normal_(module.projection.weight)
        elif isinstance(module, EnergyHead) and config.head_init == "unit":
            nn.init.constant_(module.projection.weight, config.dim**-0.5)
        elif isinstance(module, (EnergyHead, Modulation)):
            nn.init.zeros_(module.projection.weight)
