"""Bidirectional networks: the EBT encoder, its feed-forward twin, and the looped transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ebt.nn.blocks import Blocks, EnergyHead, OutputNorm, Relations, StepEmbedding, initialise
from ebt.nn.config import NetworkConfig
from ebt.nn.second_order import attend
from ebt.thinking.fast.adjoint import Separated


class Transformer(nn.Module):
    """Bidirectional stack on embeddings (B, S, D) that already carry their positions; twice differentiable."""

    def __init__(self, config: NetworkConfig, groups: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.blocks = Blocks(config)
        self.relations = None if groups is None else Relations(config, groups)
        self.norm = OutputNorm(config)
        initialise(self, config)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Hidden states (B, S, D); ``condition`` (D,) or (B, D) is for the adaptive norms of a modulated network."""
        return self.norm(self.hidden(x, condition), condition)

    def hidden(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the last block makes of embeddings, (B, S, D), before the norm."""
        return run_blocks(self.blocks, x, condition, self.relations)


def run_blocks(blocks: Blocks, x: Tensor, condition: Tensor | None = None, relations: Relations | None = None) -> Tensor:
    """Everything attends to everything, more to what it is related to."""
    biases = [None] * len(blocks) if relations is None else relations(x.shape[1])
    for block, bias in zip(blocks, biases, strict=True):
        adapted = block.adapt(condition)
        q, k, v = block.project(x, None, adapted)
        x = block.finish(x, attend(q, k, v, bias), adapted)
    return x


class EBTEncoder(nn.Module):
    """Bidirectional EBT: context and candidate of each part are added, all parts see each other, one energy per part."""

    def __init__(self, config: NetworkConfig, alpha0: float = 1.0, groups: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        self.blocks = Blocks(config)
        self.relations = None if groups is None else Relations(config, groups)
        self.head = EnergyHead(config, alpha0)
        self.steps = StepEmbedding(config) if config.conditioning != "none" else None
        initialise(self, config)

    def encode(self, x: Tensor, free: Tensor | None = None) -> EncoderLandscape:
        """Bind the energy to a context.

        Args:
            x: embeddings of the parts with their positions (B, S, D).
            free: (B, S), True where a part is to be predicted; the candidates of other parts are not seen. All, by default.
        """
        return EncoderLandscape(self, x, None if free is None else free.unsqueeze(-1).to(x.dtype))

    def hidden(self, context: Tensor, candidate: Tensor | None, step: int = 0) -> Tensor:
        """What the last block makes of candidates (N, S, D) in a context, or of the context alone, before norm and head."""
        x = context if candidate is None else context + candidate
        if self.steps is None:
            return run_blocks(self.blocks, x, None, self.relations)
        token = self.steps(step)
        if self.config.conditioning == "modulation":
            return run_blocks(self.blocks, x, token, self.relations)
        if self.config.conditioning == "candidate":
            return run_blocks(self.blocks, x + token, None, self.relations)
        return run_blocks(self.blocks, torch.cat((token.expand(x.shape[0], 1, -1), x), 1), None, self.relations)[:, 1:]

    def energy(self, context: Tensor, candidate: Tensor, step: int, unseen: bool = False) -> Tensor:
        """Energies (N, S) of candidates (N, S, D) with the context at the same places (N, S, D).

        With candidates ``unseen`` by the blocks, a bilinear energy is linear in them: its gradient is what the feed-forward
        twin would predict, in one pass.
        """
        token = self.steps(step) if self.steps is not None and self.config.conditioning == "modulation" else None
        return self.head(self.hidden(context, None if unseen else candidate, step), candidate, token)


@dataclass(frozen=True)
class EncoderLandscape:
    """The energy of candidates for the free parts of a context; see ``ebt.thinking.Energy``."""

    network: EBTEncoder
    x: Tensor
    free: Tensor | None
    blind: bool = False
    """Whether the blocks do not see the candidates."""

    def unseen(self) -> EncoderLandscape:
        """The same, with candidates that the blocks do not see.

        Raises:
            ValueError: the head is linear, and nothing would depend on the candidates.
        """
        self.network.head.needs_product()
        return replace(self, blind=True)

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        repeats = candidate.shape[0] // self.x.shape[0]
        seen = candidate if self.free is None else candidate * self.free.repeat(repeats, 1, 1)
        return self.network.energy(self.x.repeat(repeats, 1, 1), seen, step, self.blind)

    def roots(self) -> list[Tensor]:
        """The input and the weights."""
        return [self.x, *self.network.parameters()]

    def on(self, x: Tensor) -> EncoderLandscape:
        """The same landscape with another input."""
        return replace(self, x=x)

    def separate(self, rows: slice) -> Separated:
        """The landscape of some rows, with the input as a leaf."""
        x = self.x[rows]
        leaf = x.detach().requires_grad_(x.requires_grad)
        part = replace(self, x=leaf, free=None if self.free is None else self.free[rows])
        return Separated(part, [x], [leaf])

    def select(self, rows: Tensor) -> EncoderLandscape:
        """The landscape of some candidate rows (indices into M x B)."""
        index = rows % self.x.shape[0]
        return replace(self, x=self.x[index], free=None if self.free is None else self.free[index])
