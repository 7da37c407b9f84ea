"""Bidirectional networks: the EBT encoder and the transformer of its feed-forward and looped twins."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.nn.blocks import Blocks, EnergyNetwork, Landscape, OutputNorm, Relations, for_all_heads, initialise
from ebt.nn.config import NetworkConfig
from ebt.nn.second_order import attend
from ebt.thinking.fast.adjoint import Separated
from ebt.thinking.noise import precise


class Transformer(nn.Module):
    """Bidirectional transformer on embeddings (B, S, D), with positions in them or in the ``relations`` of attention."""

    def __init__(self, config: NetworkConfig, relations: Relations | None = None) -> None:
        super().__init__()
        self.config = config
        self.blocks = Blocks(config)
        self.relations = relations
        self.norm = OutputNorm(config)
        initialise(self, config)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Hidden states (B, S, D). ``condition`` (D,) or (B, D) is for adaptive norms (``conditioning="modulation"``)."""
        return self.norm(self.hidden(x, condition), condition)

    def hidden(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Output of the last block (B, S, D), before the norm."""
        return run_blocks(self.blocks, x, condition, self.relations, once=True)


def run_blocks(blocks: Blocks, x: Tensor, condition: Tensor | None, relations: Relations | None, once: bool = False) -> Tensor:
    """Run all blocks with full attention, biased by ``relations``, differentiable twice or ``once``."""
    biases = [None] * len(blocks) if relations is None else relations(x.shape[1])
    for block, bias in zip(blocks, biases, strict=True):

        def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = bias) -> tuple[Tensor]:
            k, v = for_all_heads(q, k, v)
            if once:
                bias = None if bias is None else bias.to(q.dtype)
                return (F.scaled_dot_product_attention(q, k, v, attn_mask=bias),)
            return (attend(q, k, v, bias),)

        (x,) = block(x, attended, condition=condition)
    return x


class EBTEncoder(EnergyNetwork):
    """Bidirectional EBT: adds the candidate of each part to its context, attends to all parts, returns one energy per part.

    Args:
        config: Configuration of the network.
        alpha0: Initial step size, by which energies are divided.
        relations: Attention biases between parts.
        latent: Whether candidates carry a latent vector (``ebt.thinking.LatentSimplex``), see ``LatentLandscape``.
    """

    def __init__(
        self, config: NetworkConfig, alpha0: float = 1.0, relations: Relations | None = None, latent: bool = False
    ) -> None:
        super().__init__(config, alpha0, relations)
        self.latent, self.alpha0 = latent, alpha0

    def encode(self, x: Tensor, free: Tensor | None = None) -> EncoderLandscape:
        """Bind the energy to a context.

        Args:
            x: Embeddings of the parts, with positions (B, S, D).
            free: Mask (B, S) of the parts to predict. The candidates of other parts are hidden. Default: all parts.
        """
        kind = LatentLandscape if self.latent else EncoderLandscape
        return kind(self, x, None if free is None else free.unsqueeze(-1).to(x.dtype))

    def hidden(self, context: Tensor, candidate: Tensor | None, step: int = 0, once: bool = False) -> Tensor:
        """Output of the last block for candidates (N, S, D) in a context, or for the context alone if None."""
        x = context if candidate is None else context + candidate
        if (token := self.token(step, "candidate")) is not None:
            x = x + token
        if (front := self.token(step, "prefix")) is not None:
            x = torch.cat((front.expand(x.shape[0], 1, -1), x), 1)
        x = run_blocks(self.blocks, x, self.token(step, "modulation"), self.relations, once)
        return x if front is None else x[:, 1:]

    def energy(self, context: Tensor, candidate: Tensor, step: int, unseen: bool = False, once: bool = False) -> Tensor:
        """Energies (N, S) of candidates (N, S, D) with the context at the same positions (N, S, D).

        If candidates are ``unseen`` by the blocks, a bilinear energy is linear in them, and its gradient is the prediction of
        the feed-forward twin. Blocks that are differentiated ``once``, or see no candidate, use fused attention.
        """
        hidden = self.passes.hidden if unseen and self.passes is not None else EBTEncoder.hidden
        seen = hidden(self, context, None if unseen else candidate, step, once or unseen)
        return self.head(seen, candidate, self.token(step, "modulation"))


@dataclass(frozen=True, eq=False)
class EncoderLandscape(Landscape):
    """The energy of candidates for the free parts of an encoded context."""

    network: EBTEncoder
    x: Tensor
    free: Tensor | None

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        repeats = candidate.shape[0] // self.x.shape[0]
        seen = candidate if self.free is None else candidate * self.free.repeat(repeats, 1, 1)
        return self.network.energy(self.x.repeat(repeats, 1, 1), seen, step, self.blind, self.differentiated_once)

    def roots(self) -> list[Tensor] | None:
        """The input and the weights."""
        return [self.x, *self.network.parameters()]

    def on(self, x: Tensor) -> EncoderLandscape:
        """The same landscape with another input."""
        return replace(self, x=x)

    def separate(self, rows: slice) -> Separated:
        """The landscape of some rows, with the input as a leaf."""
        part = self._take(rows)
        leaf = part.x.detach().requires_grad_(part.x.requires_grad)
        return Separated(replace(part, x=leaf), [part.x], [leaf])

    def select(self, rows: Tensor) -> EncoderLandscape:
        """The landscape of some candidate rows (indices into M x B)."""
        return self._take(rows % self.x.shape[0])

    def _take(self, rows: Tensor | slice) -> EncoderLandscape:
        return replace(self, x=self.x[rows], free=None if self.free is None else self.free[rows])


@dataclass(frozen=True, eq=False)
class LatentLandscape(EncoderLandscape):
    """The energy of candidates ``e`` with latent vectors ``z``, and the slope that descents follow.

    With the output ``x`` of the blocks at the input ``context + e + z``, its unit scale ``n = x / rms(x)`` and the head's
    coefficient ``c`` of the candidate, a part has the energy ``E = <c, e> - <n, z> / D``. The slope is the head's,
    ``(c, -n / D)``: it leaves out how ``c`` and ``n`` depend on ``e`` and ``z``. Since ``|n|`` is constant,
    ``|z|^2 / 2 - <n, z>`` is the residual ``|z - n|^2 / 2`` of a fixed point plus a constant, and what is left out for ``z``
    vanishes there. A step costs one forward pass, and training differentiates it once.
    """

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        return self.slope(candidate, step)[0]

    def slope(self, candidate: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Energies (N, S) of candidates (N, S, 2 D), and their slope (N, S, 2 D)."""
        net, repeats = self.network, candidate.shape[0] // self.x.shape[0]
        seen, latent = candidate.chunk(2, -1)
        free = None if self.free is None else self.free.repeat(repeats, 1, 1)
        seen = seen if free is None else seen * free
        hidden = net.hidden(self.x.repeat(repeats, 1, 1), seen + latent, step, once=True)
        direct = net.head.coefficient(hidden, net.token(step, "modulation"))
        still = F.rms_norm(precise(hidden), hidden.shape[-1:], eps=net.config.norm_eps) / (hidden.shape[-1] * net.alpha0)
        direct = direct if free is None else direct * free
        energies = (direct * precise(seen)).sum(-1) - (still * precise(latent)).sum(-1)
        return energies, torch.cat((direct, -still), -1).to(candidate.dtype)

    def unseen(self) -> LatentLandscape:
        """Not available.

        Raises:
            ValueError: Always. A step of a latent descent costs one pass, so a warm start saves nothing.
        """
        raise ValueError("a landscape with latent vectors has no warm start: set warm_start to 0")

    def roots(self) -> list[Tensor] | None:
        """None: training back-propagates through the descent, as its steps are differentiated once."""
        return None
