"""Layers that all networks share: rotary attention for each way of looking, SwiGLU, blocks, the energy head.

Letters: B rows of context, N rows of candidates (M x B, candidate-major), S positions, K visible context positions, H heads,
D width, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.nn.config import NetworkConfig

Rotation = tuple[Tensor, Tensor]


def rotation(positions: Tensor, head_dim: int, theta: float, like: Tensor) -> Rotation:
    """Cosines and sines of rotary embeddings for positions (S,) or (B, S), broadcastable to (B, H, S, d / 2)."""
    frequency = theta ** (-torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float64) / head_dim)
    angle = positions.to(like.device).unsqueeze(-1) * frequency
    angle = angle.unsqueeze(-3) if angle.dim() == 3 else angle
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x: Tensor, rotary: Rotation) -> Tensor:
    """Rotate neighbouring pairs of the last dimension of (..., S, d)."""
    cos, sin = rotary
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Attention(nn.Module):
    """Multi-head attention without biases; one set of weights for context and candidates."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.dim // config.heads
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.key = nn.Linear(config.dim, config.dim, bias=False)
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        self.output = nn.Linear(config.dim, config.dim, bias=False)

    def project(self, x: Tensor, rotary: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, S, d) of x (B, S, D)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return (rotate(q, rotary), rotate(k, rotary), v) if rotary is not None else (q, k, v)

    def merge(self, x: Tensor) -> Tensor:
        return self.output(x.transpose(-3, -2).flatten(-2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain attention of everything to everything, twice differentiable (fused kernels are not)."""
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def attend_context_and_self(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Each candidate attends to the context positions it may see and to itself only, in one softmax; twice differentiable.

    Args:
        q, k, v: (N, H, S, d) of the candidates, N = M x B.
        keys, values: (B, H, K, d) of the context, shared by the M candidates.
        visible: (S, K) or (B, 1, S, K), which context positions each candidate sees.
    """
    n, heads, length, width = q.shape
    rows = keys.shape[0]
    folded = q.view(-1, rows, heads, length, width).permute(1, 2, 0, 3, 4).reshape(rows, heads, -1, width)
    scores = (folded @ keys.transpose(-1, -2)).view(rows, heads, -1, length, keys.shape[2])
    scores = scores.masked_fill(~(visible if visible.dim() == 2 else visible.unsqueeze(2)), float("-inf"))
    own = (q * k).sum(-1, keepdim=True).view(-1, rows, heads, length, 1).permute(1, 2, 0, 3, 4)
    weights = (torch.cat((own, scores), -1) * width**-0.5).softmax(-1)
    seen = (weights[..., 1:].flatten(2, 3) @ values).view(rows, heads, -1, length, width)
    seen = seen.permute(2, 0, 1, 3, 4).reshape(n, heads, length, width)
    return seen + weights[..., :1].permute(2, 0, 1, 3, 4).reshape(n, heads, length, 1) * v


class Block(nn.Module):
    """Pre-norm block: attention and SwiGLU, each added to its input (Llama-2 style)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.gate = nn.Linear(config.dim, config.hidden, bias=False)
        self.up = nn.Linear(config.dim, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.dim, bias=False)

    def project(self, x: Tensor, rotary: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the normalised input."""
        return self.attention.project(self.attention_norm(x), rotary)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the block, given the heads' outputs (B, H, S, d)."""
        x = x + self.attention.merge(attended)
        normed = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Blocks(nn.ModuleList):
    """The stack of blocks of one network."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(Block(config) for _ in range(config.layers))

    def __iter__(self) -> Iterator[Block]:
        return cast(Iterator[Block], super().__iter__())


class EnergyHead(nn.Module):
    """The energy of each part, zero at first, so that training starts flat.

    linear: ``E = w . n(x)`` as in the paper; bilinear: ``E = -w . (n(x) * e)``, how well what the blocks make of context and
    candidate agrees with the candidate ``e``. The energy is divided by the initial step size ``alpha0``, so that loss and
    gradients do not depend on ``alpha0``.
    """

    def __init__(self, config: NetworkConfig, alpha0: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.projection = nn.Linear(config.dim, 1, bias=False)
        self.bilinear = config.head == "bilinear"
        self.scale = config.dim**0.5 / alpha0 if self.bilinear else 1 / alpha0

    def forward(self, x: Tensor, candidate: Tensor) -> Tensor:
        """Energies (N, S) of the blocks' output x (N, S, D) for candidates (N, S, D)."""
        features = -self.norm(x) * candidate if self.bilinear else self.norm(x)
        return self.projection(features).squeeze(-1) * self.scale


class StepEmbedding(nn.Module):
    """One learned vector per step index; later indices count as the last."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.vectors = nn.Embedding(config.conditioned_steps, config.dim)

    def index(self, step: int) -> int:
        return min(step, self.vectors.num_embeddings - 1)

    def forward(self, step: int) -> Tensor:
        return self.vectors.weight[self.index(step)]


def initialise(network: nn.Module, config: NetworkConfig) -> None:
    """The one place for initial weights: normal with std 1 / sqrt(fan in), residual outputs smaller, the energy head zero."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            residual = name.endswith(("attention.output", "down"))
            nn.init.normal_(module.weight, std=module.in_features**-0.5 * ((2 * config.layers) ** -0.5 if residual else 1.0))
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=config.dim**-0.5)
    for module in network.modules():
        if isinstance(module, EnergyHead):
            nn.init.zeros_(module.projection.weight)
