"""Recorded random draws, where thinking would draw its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.thinking import CandidateSpace, StepSize

Draw = tuple[str, Tensor]
"""Kind (rand, randint, randn) and values."""

Space = TypeVar("Space", bound=CandidateSpace)


@dataclass
class Draws:
    """The draws of a run, each kind in the order it was asked for."""

    draws: Sequence[Draw]
    dtype: torch.dtype
    used: set[int] = field(default_factory=set)

    def left(self, kind: str) -> list[Tensor]:
        """Those of a kind that nobody has taken yet."""
        return [values for i, (name, values) in enumerate(self.draws) if name == kind and i not in self.used]

    def take(self, kind: str) -> Tensor:
        """The next of a kind.

        Raises:
            InputError: there is none left.
        """
        for i, (name, values) in enumerate(self.draws):
            if name == kind and i not in self.used:
                self.used.add(i)
                return values.to(self.dtype) if values.is_floating_point() else values
        raise InputError(f"the run needs one more draw of kind {kind} than were recorded")


class RecordedStepSize(StepSize):
    """A step size whose random values were recorded."""

    def __init__(self, own: StepSize, draws: Draws) -> None:
        torch.nn.Module.__init__(self)
        self.own, self.draws = own, draws

    def forward(self) -> Tensor:
        return self.own()

    def draw(self, predictions: tuple[int, ...], spread: float, generator: torch.Generator | None = None) -> Tensor:
        alpha = self()
        if spread == 1:
            return alpha
        low, high = alpha / spread, alpha * spread
        return low + self.draws.take("rand").reshape(predictions) * (high - low)


def with_recorded_noise(space: Space, noise: Draws) -> Space:
    """The same space, with Langevin noise that was recorded."""

    class Recorded(type(space)):  # type: ignore[misc]
        def perturb(self, state: Tensor, std: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return state + std * noise.take("randn") if std.any() else state

    fields: dict[str, Any] = vars(space)
    return Recorded(**fields)


def schedule(draws: Draws, landscapes: int, last_only: bool) -> tuple[int, ...]:
    """The steps of a batch, from the recorded repeats of each landscape."""
    repeats = [int(draws.take("randint")) if i == landscapes - 1 or not last_only else 1 for i in range(landscapes)]
    return tuple(i for i, count in enumerate(repeats) for _ in range(count))
