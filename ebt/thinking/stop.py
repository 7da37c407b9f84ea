"""Stops: when a prediction stops thinking (paper, section 3.3: thinking longer). Any callable can be a ``Stop``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ebt.checks import name_of, shown
from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import Source, broadcastable, draw_normal


@dataclass(frozen=True)
class Step:
    """Input of a stop, for the predictions that are still evaluated."""

    geometry: Geometry
    before: Tensor
    """States before the step."""
    after: Tensor
    """States after the step."""
    energies: Tensor
    """Energies per part of ``before``."""
    previous: Tensor | None
    """Energies one step earlier. None at the first step."""
    evaluations: float
    """Forward passes so far, averaged over all predictions."""


class Stop(Protocol):
    """Decides which predictions stop after a step: one bool per prediction, or one for all."""

    def __call__(self, step: Step, /) -> Tensor | bool: ...


@dataclass(frozen=True)
class Change:
    """Stop a prediction that changes by less than ``tolerance`` in one step (``Geometry.change``)."""

    tolerance: float

    def __post_init__(self) -> None:
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}: give a number of at least 0")

    def __call__(self, step: Step, /) -> Tensor | bool:
        return step.geometry.change(step.before, step.after) < self.tolerance


class EnergyChange(Change):
    """Stop a prediction if its energy fell by less than ``tolerance`` in the previous step."""

    def __call__(self, step: Step, /) -> Tensor | bool:
        if step.previous is None:
            return False
        return step.geometry.per_prediction(step.previous - step.energies) < self.tolerance


@dataclass(frozen=True)
class Budget:
    """Stop all predictions after a mean number of forward passes per prediction, or after a number of seconds."""

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
    """Stop a prediction when any of several stops does."""

    stops: tuple[Stop, ...]

    def __post_init__(self) -> None:
        if not self.stops:
            raise ValueError("stops is empty, so no stop is set: give at least one")

    def __call__(self, step: Step, /) -> Tensor | bool:
        found: Tensor | bool = False
        for stop in self.stops:
            found = flags(stop, step) | found
        return found


def flags(stop: Stop, step: Step) -> Tensor:
    """Which predictions a stop stops: one bool per prediction, or one for all. Raises ``ValueError`` if it returned others."""
    found, predictions = stop(step), step.after.shape[: step.geometry.prediction_dims]
    try:
        given = torch.as_tensor(found, device=step.after.device)
    except (TypeError, ValueError, RuntimeError):
        given = None
    if given is None or given.dtype != torch.bool or given.shape not in (predictions, ()):
        shape = f"one bool per prediction, {tuple(predictions)}, or one for all"
        raise ValueError(f"the stop {name_of(stop)} returned {shown(found)}: return {shape}")
    return given


class Everyone:
    """Tracks the predictions of a descent. All are evaluated at every step; those that have stopped keep their states."""

    def __init__(self, energy: Any, geometry: Geometry, start: Tensor, stop: Stop | None) -> None:
        self.energy, self.geometry, self.stop = energy, geometry, stop
        self.predictions = start.shape[: geometry.prediction_dims]
        self.steps = torch.zeros(self.predictions, dtype=torch.long, device=start.device)
        self.moving = torch.ones(self.predictions, dtype=torch.bool, device=start.device)
        self.previous: Tensor | None = None
        self.evaluated, self.done = 0, False

    @property
    def passes(self) -> float:
        """Forward passes so far, averaged over all predictions."""
        return self.evaluated / self.steps.numel()

    def part(self, tensor: Any) -> Any:
        """Select the predictions still evaluated from a tensor broadcastable to states or energies."""
        return tensor

    def put(self, whole: Tensor | None, part: Any) -> Any:
        """Put the values of the predictions still evaluated into ``whole``."""
        return part

    def source(self, generator: Any, step: int) -> Source:
        """Source of the noise of one step. It draws for all predictions, so draws do not depend on which are evaluated."""
        source = generator if generator is None or isinstance(generator, torch.Generator) else generator.at(step)

        def draw(like: Tensor) -> Tensor:
            return self.part(draw_normal((*self.predictions, *like.shape[len(self.predictions) :]), like, source))

        return draw

    def advance(self, state: Tensor, here: Tensor, energies: Tensor) -> Tensor:
        """Update the whole state with the new values of the predictions still evaluated."""
        self.evaluated += here.shape[: len(self.predictions)].numel()
        if self.stop is None:
            self.steps += 1
            return here
        before, moving = self.part(state), self.part(self.moving)
        here = torch.where(broadcastable(moving, here.dim()), here, before)
        self.steps += self.moving
        judged = Step(self.geometry, before, here, energies, self.part(self.previous), self.passes)
        stays = ~flags(self.stop, judged)
        whole: Tensor = self.put(state, here)
        self.previous, self.moving = self.put(self.previous, energies), self.put(self.moving, moving & stays)
        self.done = not bool(self.moving.any())
        return whole
