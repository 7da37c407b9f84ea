"""What parity with the published code needs: its update, candidates that are no probabilities, several steps a landscape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebt.thinking.fast.draws import draw_integer
from ebt.thinking.geometry import Geometry, Simplex
from ebt.thinking.update import Moved, Update


class Published(Update):
    """``l' = p - alpha W g``: the next logits start from the probabilities.

    A fixed point is stationary for ``E - (H(p) + |p|^2 / 2) / alpha``.
    """

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        return state.softmax(-1) - alpha * direction, memory

    def objective(self, geometry: Geometry, energies: Tensor, state: Tensor, alpha: Tensor) -> Tensor:
        assert isinstance(geometry, Simplex)
        square = geometry.logits(state).softmax(-1).square().sum(-1)
        return energies - (geometry.entropy(state) + square / 2) / alpha


@dataclass(frozen=True, eq=False)
class FreeVector(Simplex):
    """The network sees the logits themselves, ``e = W^T l`` (without ``normalize_initial_condition``)."""

    def view(self, state: Tensor) -> Tensor:
        return state.to(self.table.dtype) @ self.seen

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        return dual


class Landscapes:
    """The numbers of steps of a recipe (``Recipe.landscapes``)."""

    min_steps: int
    max_steps: int
    landscapes: int | None
    repeated: Literal["all", "last"]

    @property
    def told_steps(self) -> int:
        """How many step indices a conditioned network is told."""
        return self.max_steps if self.landscapes is None else self.landscapes

    @property
    def own_steps(self) -> int:
        """The number of steps of evaluations: the largest; of several landscapes only the last is stepped on repeatedly."""
        return self.max_steps if self.landscapes is None else self.landscapes - 1 + self.max_steps

    @property
    def mean_steps(self) -> float:
        """Steps of a training batch on average, over all landscapes."""
        mean = (self.min_steps + self.max_steps) / 2
        if self.landscapes is None:
            return mean
        return self.landscapes * mean if self.repeated == "all" else self.landscapes - 1 + mean

    def draw_schedule(self, generator: torch.Generator | None = None) -> tuple[int, ...]:
        """The steps of one batch, each with the index that the network is told."""

        def count() -> int:
            return draw_integer(self.min_steps, self.max_steps + 1, generator)

        if self.landscapes is None:
            return tuple(range(count()))
        last = self.landscapes - 1
        repeats = [count() if self.repeated == "all" or i == last else 1 for i in range(self.landscapes)]
        return tuple(i for i, number in enumerate(repeats) for _ in range(number))
