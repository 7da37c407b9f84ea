"""A simplex with states ``u`` of size D that represent the logits ``W u``. Logits are computed in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebt.thinking.fast import vocabulary
from ebt.thinking.geometry import Simplex
from ebt.thinking.noise import precise


@dataclass(frozen=True, eq=False)
class CompactSimplex(Simplex):
    """A simplex with states of size D instead of V. Equals ``Simplex`` with ``l = W u`` under ``Mirror`` and ``Restart``."""

    def logits(self, state: Tensor) -> Tensor:
        return state.to(self.table.dtype) @ self.table.T

    @property
    def width(self) -> int:
        return self.table.shape[1]

    def spread(self, std: float) -> Tensor:
        return std / precise(self.table.detach()).square().sum(-1).mean().sqrt()

    def view(self, state: Tensor) -> Tensor:
        return self.attach(state, None)

    def attach(self, state: Tensor, known: vocabulary.Views | None) -> Tensor:
        """``view(state)``, without computing its value again if ``known``."""
        seen: Tensor = vocabulary.View.apply(state.flatten(0, -2), self.seen, known)
        return seen.view(*state.shape[:-1], -1)

    def pull_back(self, state: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        """``W^T J(W u) W dual`` with ``J = diag p - p p^T``."""
        p = self._p(state)
        pulled = dual @ self.table.T
        return (p * (pulled - (p * pulled).sum(-1, keepdim=True))) @ self.table

    def loss(self, state: Tensor, target: Tensor) -> Tensor:
        words, scored = target.flatten().clamp(min=0), self.scored(target)
        losses: Tensor = vocabulary.CrossEntropy.apply(state.flatten(0, -2), self.table, words)
        return losses.view_as(target) * scored

    def assess(
        self, state: Tensor, target: Tensor, weight: Tensor, into: Tensor | None
    ) -> tuple[Tensor, Tensor, vocabulary.Views]:
        """Losses of states, the gradient of their weighted sum, and the views for ``attach``, in one pass over the vocabulary.

        Args:
            state: See ``loss``.
            target: See ``loss``.
            weight: Weight of each loss in the sum, broadcastable to the losses.
            into: Buffer (V, D) to which the gradient with respect to the table is added. None: not computed.
        """
        scored = self.scored(target)
        weight, words = (weight * scored).expand_as(target).flatten(), target.flatten().clamp(min=0)
        with torch.no_grad():
            found = vocabulary.assess(state.detach().flatten(0, -2), self.table.detach(), words, weight, into)
        losses, slope, seen = found
        return losses.view_as(target) * scored, slope.view_as(state), seen

    def entropy(self, state: Tensor) -> Tensor:
        """``H(p) = log sum exp(W u) - u . e``."""
        zero = torch.zeros(state.shape[:-1], dtype=torch.long, device=state.device)
        log_sum = self.loss(state, zero) + state @ self.table[0]
        return log_sum - (state * self.view(state)).sum(-1)
