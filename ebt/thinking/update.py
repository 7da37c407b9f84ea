"""Updates: how a gradient moves a candidate (paper, equation 2). Adding one is one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry

Moved = tuple[Tensor, Tensor | None]


class Update(ABC):
    """One step of a candidate; ``memory`` is what it carries on beside the state, shaped as the state, or None."""

    def begin(self, state: Tensor) -> Tensor | None:
        """The memory before the first step."""
        return None

    def direction(self, geometry: Geometry, state: Tensor, gradient: Tensor) -> Tensor:
        """What alpha multiplies, (N, *P, K), from ``gradient = dE/dview``."""
        return geometry.pull_back(state, gradient)

    @abstractmethod
    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        """The next state and memory."""

    def objective(self, geometry: Geometry, energies: Tensor, state: Tensor, alpha: Tensor) -> Tensor:
        """The function per part that the update descends, given the energies (N, *P) of states; alpha is one per part."""
        return energies


class Mirror(Update):
    """``y' = y - alpha g``, g in the geometry's dual: on a vocabulary entropic mirror descent (Nemirovski & Yudin 1983)."""

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        return state - alpha * direction, memory


class Gradient(Mirror):
    """``y' = y - alpha dE/dy``, the paper's equation 2, with the derivative taken through the geometry's view."""

    def direction(self, geometry: Geometry, state: Tensor, gradient: Tensor) -> Tensor:
        return geometry.jacobian(state, geometry.pull_back(state, gradient))


class Restart(Update):
    """``y' = -alpha g``: a fixed point is stationary for ``E + potential / alpha``, which keeps a simplex calibrated."""

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        return -alpha * direction, memory

    def objective(self, geometry: Geometry, energies: Tensor, state: Tensor, alpha: Tensor) -> Tensor:
        return energies + geometry.potential(state) / alpha


@dataclass(frozen=True)
class Momentum(Update):
    """``m' = beta m - alpha g``: a memory of earlier gradients that fades.

    With ``restart`` the next state is ``m'``: ``Restart`` at ``beta`` 0, towards ``Mirror`` (from 0) as it nears 1. Without, it
    is ``y + m'``, heavy-ball momentum (Polyak 1964). A ``beta`` outside [0, 1) raises ``ValueError``.
    """

    beta: float = 0.5
    restart: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ValueError(f"beta is {self.beta}: give a number in [0, 1)")

    def begin(self, state: Tensor) -> Tensor:
        return torch.zeros_like(state)

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        assert memory is not None
        memory = self.beta * memory - alpha * direction
        return (memory if self.restart else state + memory), memory
