"""Stops: when a prediction has been thought about enough. Adding one is one class."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry


@dataclass(frozen=True)
class Step:
    """What a stop judges by, of the predictions that are still evaluated."""

    geometry: Geometry
    before: Tensor
    """States before the step."""
    after: Tensor
    """States after it."""
    energies: Tensor
    """Energies per part of the states before it."""
    previous: Tensor | None
    """Those one step earlier; None at the first step."""
    evaluations: float
    """Forward passes so far, mean over all predictions."""


class Stop(Protocol):
    """Which predictions stop after a step: a bool for each, or one for all."""

    def __call__(self, step: Step, /) -> Tensor | bool: ...


@dataclass(frozen=True)
class Change:
    """Stops a prediction that changes by less than ``tolerance`` in one step (``Geometry.change``)."""

    tolerance: float

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}: give a number of at least 0")

    def __call__(self, step: Step, /) -> Tensor:
        return step.geometry.change(step.before, step.after) < self.tolerance


@dataclass(frozen=True)
class EnergyChange:
    """Stops a prediction whose energy fell by less than ``tolerance`` in the step before."""

    tolerance: float

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}: give a number of at least 0")

    def __call__(self, step: Step, /) -> Tensor | bool:
        if step.previous is None:
            return False
        return step.geometry.per_prediction(step.previous - step.energies) < self.tolerance


@dataclass(frozen=True)
class Budget:
    """Stops all predictions after so many forward passes a prediction on average, or so many seconds."""

    evaluations: float | None = None
    seconds: float | None = None
    began: float = field(default_factory=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.evaluations is None and self.seconds is None:
            raise ValueError("a budget needs a bound: give evaluations, seconds or both")
        for name in ("evaluations", "seconds"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number above 0")

    def __call__(self, step: Step, /) -> bool:
        spent = self.evaluations is not None and step.evaluations >= self.evaluations
        return spent or (self.seconds is not None and time.monotonic() - self.began >= self.seconds)


@dataclass(frozen=True)
class Either:
    """Stops what any of several stops would stop."""

    stops: tuple[Stop, ...]

    def __post_init__(self) -> None:
        if not self.stops:
            raise ValueError("there is no stop in an empty tuple: give at least one")

    def __call__(self, step: Step, /) -> Tensor | bool:
        found: Tensor | bool = False
        for stop in self.stops:
            found = torch.as_tensor(stop(step)).to(step.after.device) | found
        return found
