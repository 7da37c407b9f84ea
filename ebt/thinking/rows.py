"""The account of predictions: which of them still move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import Source, draw_normal
from ebt.thinking.stop import Step, Stop
from ebt.thinking.thought import Evaluations


class Everyone:
    """All predictions are evaluated at every step; those that have stopped keep their states."""

    def __init__(self, energy: Any, geometry: Geometry, start: Tensor, stop: Stop | None) -> None:
        self.energy, self.geometry, self.stop = energy, geometry, stop
        self.predictions = start.shape[: geometry.prediction_dims]
        self.steps = torch.zeros(self.predictions, dtype=torch.long, device=start.device)
        self.moving = torch.ones(self.predictions, dtype=torch.bool, device=start.device)
        self.previous: Tensor | None = None
        self.evaluated, self.done = 0, False

    def part(self, tensor: Any) -> Any:
        """Of the predictions still evaluated, a tensor broadcastable to states or energies."""
        return tensor

    def put(self, whole: Tensor | None, part: Any) -> Any:
        """``whole`` with the values of those still evaluated."""
        return part

    def source(self, generator: Any, step: int, start: Tensor) -> Source:
        """What draws the noise of one step: for all predictions, whoever is still evaluated."""
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = generator.at(step)

        def draw(like: Tensor) -> Tensor:
            shape = (*start.shape[: len(self.predictions)], *like.shape[len(self.predictions) :])
            drawn: Tensor = self.part(draw_normal(shape, like, generator))
            return drawn

        return draw

    def advance(self, state: Tensor, here: Tensor, energies: Tensor) -> Tensor:
        """The whole state with the predictions' new values."""
        self.evaluated += here.shape[: len(self.predictions)].numel()
        if self.stop is None:
            self.steps += 1
            return here
        before, moving = self.part(state), self.part(self.moving)
        here = torch.where(moving.reshape(*moving.shape, *([1] * (here.dim() - moving.dim()))), here, before)
        self.steps += self.moving
        judged = Step(self.geometry, before, here, energies, self.part(self.previous), self.evaluated / self.steps.numel())
        stays = ~torch.as_tensor(self.stop(judged), device=here.device)
        whole: Tensor = self.put(state, here)
        self.previous, self.moving = self.put(self.previous, energies), self.put(self.moving, moving & stays)
        self.done = not bool(self.moving.any())
        return whole

    def count(self, final: bool) -> Evaluations:
        """Passes so far; ``final`` adds a forward pass."""
        passes = self.evaluated / self.steps.numel()
        return Evaluations(forward=passes + final, backward=passes)
