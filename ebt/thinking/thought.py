"""What a descent returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry
from ebt.thinking.update import Update


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


@dataclass(frozen=True, repr=False)
class Thought:
    """The record of a descent with N rows, parts *P of a row and T updates.

    After ``choose`` its rows are the winners', and ``candidates`` is the record of all M x B rows.
    """

    geometry: Geometry
    update: Update
    start: Tensor
    """State (N, *P, K) before the first update."""
    states: tuple[Tensor, ...]
    """States after each update; only the last where they were not kept."""
    energies: Tensor
    """Energies per part (T, N, *P) before each update; one more, of the final state, where it was asked for. Predictions that
    are not evaluated any more repeat the last energy that they had."""
    steps: Tensor
    """Updates that each prediction really made."""
    step_size: Tensor
    """The step size, broadcastable to the states."""
    evaluations: Evaluations
    final_energy: bool = False
    """Whether the last energies are those of the final states."""
    winner: Tensor | None = None
    """After self-verification: which of the M candidates won, per prediction."""
    candidates: Thought | None = None
    shown: Any = None
    """What a model makes of the final states: completed boards, images, tokens."""

    @property
    def state(self) -> Tensor:
        """The final states."""
        return self.states[-1]

    @cached_property
    def path(self) -> Tensor:
        """States before and after each update, (T + 1, N, *P, K)."""
        return torch.stack((self.start, *self.states))

    @cached_property
    def best(self) -> Tensor:
        """The final state of lowest energy, for each prediction, of all rows as candidates of one context: (*P, K)."""
        return self._verified.state[0] if self.winner is None else self.state

    @cached_property
    def energy(self) -> Tensor:
        """Energies of the winner before each update and of the final state, per prediction: (T + 1, B, ...) of a model's
        thought, (T + 1, ...) of the ``best`` of a descent."""
        thought = self if self.winner is not None else self._verified
        energies = torch.stack([self.geometry.per_prediction(each) for each in thought.energies])
        return energies if self.winner is not None else energies[:, 0]

    @cached_property
    def answer(self) -> Any:
        """What the winner says: boards, tokens, images or frames; the final state where a model makes nothing else of it."""
        return self.best if self.shown is None else self.shown

    @cached_property
    def _verified(self) -> Thought:
        from ebt.thinking.verify import choose

        return choose(self, len(self.start))

    def objective(self, index: int) -> Tensor:
        """The function per part (N, *P) that the updates descend, of the states after ``index + 1`` of them."""
        alpha = self.step_size.squeeze(-1) if self.step_size.dim() == self.start.dim() else self.step_size
        return self.update.objective(self.geometry, self.energies[index + 1], self.states[index], alpha)

    def rows(self, index: Tensor) -> Thought:
        """The record of some rows only."""
        own = self.step_size.dim() and self.step_size.shape[0] > 1
        return replace(
            self,
            start=self.start[index],
            states=tuple(state[index] for state in self.states),
            energies=self.energies[:, index],
            steps=self.steps[index],
            step_size=self.step_size[index] if own else self.step_size,
            winner=None if self.winner is None else self.winner[index],
        )

    def __repr__(self) -> str:
        taken, shape = self.steps.double().mean().item(), tuple(self.start.shape)
        passes = f"{self.evaluations.forward:.3g} + {self.evaluations.backward:.3g} passes"
        return (
            f"Thought(states {shape}, {taken:.3g} steps, {passes}, mean energy {self.energies[-1].double().mean().item():.4g})"
        )
