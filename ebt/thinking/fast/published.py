"""Update and geometry for parity with the published code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebt.thinking.geometry import Geometry, Simplex
from ebt.thinking.update import Moved, Update


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


@dataclass(frozen=True, eq=False)
class FreeVector(Simplex):
    """Logits without a softmax: the network sees ``e = W^T l`` (published code without ``normalize_initial_condition``)."""

    def view(self, state: Tensor) -> Tensor:
        return state.to(self.table.dtype) @ self.seen

    def jacobian(self, state: Tensor, dual: Tensor) -> Tensor:
        return dual
