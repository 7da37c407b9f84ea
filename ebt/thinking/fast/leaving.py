"""Remove predictions that have stopped from the batch. The others are evaluated as n rows of one prediction, (n, 1, .., K)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ebt.thinking.stop import Everyone


class Leaving(Everyone):
    """Evaluates only predictions that have not stopped, if the energy has a method ``select``."""

    index: tuple[Tensor, ...] | None = None
    """Rows and positions of the predictions still evaluated. None: all."""
    whole: Any = None

    def part(self, tensor: Any) -> Any:
        if tensor is None or self.index is None or tensor.dim() == 0:
            return tensor
        dims = len(self.predictions)
        picked = tensor.expand(*self.predictions, *tensor.shape[dims:])[self.index]
        return picked.reshape(-1, *[1] * (dims - 1), *picked.shape[1:])

    def put(self, whole: Tensor | None, part: Any) -> Any:
        if part is None or self.index is None or whole is None:
            return part
        return whole.index_put(self.index, part.flatten(0, len(self.predictions) - 1))

    def advance(self, state: Tensor, here: Tensor, energies: Tensor) -> Tensor:
        state = super().advance(state, here, energies)
        if self.stop is None or self.done:
            return state
        self.whole = self.energy if self.whole is None else self.whole
        select, index = getattr(self.whole, "select", None), self.moving.nonzero(as_tuple=True)
        if select is not None and len(index[0]) < (self.moving.numel() if self.index is None else len(self.index[0])):
            self.index, self.energy = index, select(*index)
        return state
