"""A memory for the descent: a latent vector beside each candidate, descended with it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebt.thinking.geometry import Simplex
from ebt.thinking.noise import Source

LATENT_STD = 0.1
"""Standard deviation of starts and noise of the latent vectors, relative to that of the logits."""


@dataclass(frozen=True, eq=False)
class LatentSimplex(Simplex):
    """Probabilities over a vocabulary, with a latent vector ``z`` of size D per part. The state is V logits, then ``z``.

    The network sees ``[e, z]`` (N, *P, 2 D). Its inner product with ``z`` is a mean over the D elements, so ``Restart`` gives
    ``z' = -alpha ratio D dE/dz``. Losses, entropies, answers and changes are those of the probabilities.
    """

    ratio: Tensor = field(default_factory=lambda: torch.ones(()))
    """Step size of the latent vectors, relative to alpha."""

    def weights(self) -> list[Tensor]:
        return [self.table, self.ratio]

    @property
    def width(self) -> int:
        return sum(self.table.shape)

    def logits(self, state: Tensor) -> Tensor:
        return state[..., : len(self.table)]

    def latent(self, state: Tensor) -> Tensor:
        """The latent vectors ``z`` (N, *P, D) of a state."""
        return state[..., len(self.table) :]

    def spread(self, std: float) -> Tensor:
        scale = torch.ones(self.width, dtype=self.table.dtype, device=self.table.device)
        scale[len(self.table) :] = LATENT_STD
        return std * scale

    def look(self, state: Tensor, std: Tensor | None, draw: Source) -> tuple[Tensor, Tensor]:
        return super().look(state, None if std is None else std * self.spread(1.0), draw)

    def view(self, state: Tensor) -> Tensor:
        return torch.cat((super().view(state), self.latent(state).to(self.table.dtype)), -1)

    def decided(self, state: Tensor) -> Tensor:
        return torch.cat((super().decided(state), self.latent(state).to(self.table.dtype)), -1)

    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        seen, latent = gradient.chunk(2, -1)
        return torch.cat((super().pull_back(state, seen), self.ratio * latent.shape[-1] * latent), -1)

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        return torch.cat((super().jacobian(state, self.logits(dual)), self.latent(dual)), -1)

    def potential(self, state: Tensor) -> Tensor:
        return super().potential(state) + self.latent(state).square().mean(-1) / (2 * self.ratio)
