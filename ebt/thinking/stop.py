"""Stops: when a prediction has been thought about enough (paper, section 3.3: thinking longer). Adding one is one class."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import Source, draw_normal


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

    def __call__(self, step: Step, /) -> Tensor | bool:
        return step.geometry.change(step.before, step.after) < self.tolerance


class EnergyChange(Change):
    """Stops a prediction whose energy fell by less than ``tolerance`` in the step before."""

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


class Everyone:
    """The account of predictions: all are evaluated at every step, and those that have stopped keep their states."""

    def __init__(self, energy: Any, geometry: Geometry, start: Tensor, stop: Stop | None) -> None:
        self.energy, self.geometry, self.stop = energy, geometry, stop
        self.predictions = start.shape[: geometry.prediction_dims]
        self.steps = torch.zeros(self.predictions, dtype=torch.long, device=start.device)
        self.moving = torch.ones(self.predictions, dtype=torch.bool, device=start.device)
        self.previous: Tensor | None = None
        self.evaluated, self.done = 0, False

    @property
    def passes(self) -> float:
        """Forward passes so far, mean over all predictions."""
        return self.evaluated / self.steps.numel()

    def part(self, tensor: Any) -> Any:
        """Of the predictions still evaluated, a tensor broadcastable to states or energies."""
        return tensor

    def put(self, whole: Tensor | None, part: Any) -> Any:
        """``whole`` with the values of those still evaluated."""
        return part

    def source(self, generator: Any, step: int) -> Source:
        """What draws the noise of one step: for all predictions, whoever is still evaluated."""
        source = generator if generator is None or isinstance(generator, torch.Generator) else generator.at(step)

        def draw(like: Tensor) -> Tensor:
            drawn: Tensor = self.part(draw_normal((*self.predictions, *like.shape[len(self.predictions) :]), like, source))
            return drawn

        return draw

    def advance(self, state: Tensor, here: Tensor, energies: Tensor) -> Tensor:
        """The whole state with the predictions' new values."""
        self.evaluated += here.shape[: len(self.predictions)].numel()
        if self.stop is None:
            self.steps += 1
            return here
        before, moving = self.part(state), self.part(self.moving)
        here = torch.where(moving.reshape(*moving.shape, *[1] * (here.dim() - moving.dim())), here, before)
        self.steps += self.moving
        judged = Step(self.geometry, before, here, energies, self.part(self.previous), self.passes)
        stays = ~torch.as_tensor(self.stop(judged), device=here.device)
        whole: Tensor = self.put(state, here)
        self.previous, self.moving = self.put(self.previous, energies), self.put(self.moving, moving & stays)
        self.done = not bool(self.moving.any())
        return whole
