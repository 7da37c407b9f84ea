"""Updates: how a gradient moves a candidate (paper, equation 2). Subclass ``Update`` to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ebt.checks import shown
from ebt.thinking.geometry import Geometry, Simplex

Moved = tuple[Tensor, Tensor | None]


class Update(ABC):
    """One step of a candidate. ``memory`` is carried from step to step with the shape of the state; None if not used."""

    def begin(self, state: Tensor) -> Tensor | None:
        """The memory before the first step."""
        return None

    def direction(self, geometry: Geometry, state: Tensor, gradient: Tensor) -> Tensor:
        """The direction (N, *P, K) that alpha scales, given ``gradient = dE/dview``."""
        return geometry.pull_back(state, gradient)

    @abstractmethod
    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        """The next state and memory."""

    def objective(self, geometry: Geometry, energies: Tensor, state: Tensor, alpha: Tensor) -> Tensor:
        """The function per part that the update descends, given the energies (N, *P) of states and one alpha per part."""
        return energies


def moved(update: Update, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
    """``Update.move``. Raises ``ValueError`` if the update returned something else than a next state and a memory."""
    found = update.move(state, direction, alpha, memory)
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Tensor) and found[0].shape == state.shape:
        return found
    wanted = f"the next state, of shape {tuple(state.shape)}, and the memory, or None"
    raise ValueError(f"the update {type(update).__name__} returned {shown(found)}: return {wanted}")


class Mirror(Update):
    """``y' = y - alpha g`` with ``g`` from ``pull_back``. Entropic mirror descent on a simplex (Nemirovski & Yudin 1983)."""

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        return state - alpha * direction, memory


class Gradient(Mirror):
    """``y' = y - alpha dE/dy`` (paper, equation 2), with the derivative taken through the view of the geometry."""

    def direction(self, geometry: Geometry, state: Tensor, gradient: Tensor) -> Tensor:
        return geometry.jacobian(state, geometry.pull_back(state, gradient))


class Restart(Update):
    """``y' = -alpha g``. Fixed points are stationary for ``E + potential / alpha``, which keeps probabilities calibrated."""

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        return -alpha * direction, memory

    def objective(self, geometry: Geometry, energies: Tensor, state: Tensor, alpha: Tensor) -> Tensor:
        return energies + geometry.potential(state) / alpha


@dataclass(frozen=True)
class Momentum(Update):
    """``m' = beta m - alpha g``, a decaying memory of earlier gradients.

    With ``restart`` the next state is ``m'``, which equals ``Restart`` for ``beta = 0`` and approaches ``Mirror`` (from 0) as
    ``beta`` nears 1. Otherwise it is ``y + m'``, heavy-ball momentum (Polyak 1964). Requires ``0 <= beta < 1``.
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


class Published(Update):
    """``l' = p - alpha W g``, where the next logits start from the probabilities.

    Fixed points are stationary for ``E - (H(p) + |p|^2 / 2) / alpha``.
    """

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> Moved:
        return state.softmax(-1) - alpha * direction, memory

    def objective(self, geometry: Geometry, energies: Tensor, state: Tensor, alpha: Tensor) -> Tensor:
        assert isinstance(geometry, Simplex)
        square = geometry.logits(state).softmax(-1).square().sum(-1)
        return energies - (geometry.entropy(state) + square / 2) / alpha
