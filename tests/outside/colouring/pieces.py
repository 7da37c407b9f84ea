"""A geometry, an update and a stop of one's own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebt import Simplex, Update
from ebt.thinking import Step


class Sharp(Simplex):
    """The network sees probabilities of half the temperature."""

    def view(self, state: Tensor) -> Tensor:
        return (2 * self.logits(state)).softmax(-1).to(self.table.dtype) @ self.seen


@dataclass(frozen=True)
class Fading(Update):
    """``l' = beta l - alpha W g``: older gradients count less and less."""

    beta: float = 0.5

    def move(self, state: Tensor, direction: Tensor, alpha: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.beta * state - alpha * direction, memory


@dataclass(frozen=True)
class Sure:
    """Stops a graph when its nodes are as sure as this on average."""

    probability: float = 0.5

    def __call__(self, step: Step, /) -> Tensor:
        top = step.after.softmax(-1).amax(-1)
        return top.mean(-1) > self.probability
