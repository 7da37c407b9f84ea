"""What the descent returns, and what its states are found to be worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluations:
    """Function evaluations, mean over the predictions: forward passes and inner backward passes of the network."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def times(self, candidates: int) -> Evaluations:
        """Those of several candidates a prediction."""
        return Evaluations(self.forward * candidates, self.backward * candidates)


@dataclass(frozen=True)
class Assessment:
    """Losses of states, and what comes with them for the adjoint (see ``ebt.thinking.adjoint``); all constants."""

    losses: Tensor
    """Per part, (N, *P)."""
    slope: Tensor | None
    """Gradient of the weighted sum of the losses with respect to the states, where weights were given."""
    view: Tensor | None = None
    """What the network sees of the states, where the loss hands it over for nothing."""


@dataclass(frozen=True)
class Thought:
    """The record of a descent with N rows, P parts a row and T updates."""

    start: Tensor
    """State (N, *P, K) before the first update."""
    states: tuple[Tensor, ...]
    """States after each update; only the last where they were not kept."""
    energies: Tensor
    """Energies per part (T, N, *P) before each update; one more, of the final state, where it was asked for. Predictions that
    have converged and are not evaluated any more repeat the last energy that they had."""
    steps: Tensor
    """Updates that each prediction really made."""
    step_size: Tensor
    """The step size, broadcastable to the states."""
    evaluations: Evaluations
    winner: Tensor | None = None
    """After self-verification: which of the M candidates won, per prediction."""
    final_energy: bool = False
    """Whether the last energies are those of the final states."""

    @property
    def state(self) -> Tensor:
        """The final state."""
        return self.states[-1] if self.states else self.start

    def rows(self, index: Tensor) -> Thought:
        """The record of some rows only."""
        step_size = self.step_size[index] if self.step_size.dim() and self.step_size.shape[0] > 1 else self.step_size
        return replace(
            self,
            start=self.start[index],
            states=tuple(state[index] for state in self.states),
            energies=self.energies[:, index],
            steps=self.steps[index],
            step_size=step_size,
            winner=None if self.winner is None else self.winner[index],
        )


def gather_candidates(stacked: Tensor, winner: Tensor) -> Tensor:
    """Pick per prediction: ``stacked`` (M, B, *P, ...) and ``winner`` (B, *predictions) give (B, *P, ...)."""
    index = winner.reshape(1, *winner.shape, *([1] * (stacked.dim() - 1 - winner.dim())))
    return torch.take_along_dim(stacked, index, dim=0).squeeze(0)
